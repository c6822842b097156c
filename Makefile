# Thin targets over tools/. Values given to make are data: they are never expanded by make and never reach a shell
# (see tools/play.py, which hands them to Ansible).

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.SILENT:
.DEFAULT_GOAL := help

VARIABLES := CLIENT_ID DOMAIN ISOLATION_LEVEL DEFAULT_CLIENT_ID ROOT_DOMAIN CLIENTS AGENCY_ROOT \
  ALIASES SERVICES PROTECTED RESTORE_DATA PURGE YES SERVICE LINES CUSTOM_CONFIG FORCE \
  EGRESS EGRESS_ALLOW RATE_LIMIT MEMORY CPUS PIDS DISK INVENTORY LIMIT CHECK DIFF VERBOSE ANSIBLE_ARGS

# A mistyped name must not pass for a setting that was made.
unknown := $(filter-out $(VARIABLES),$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
$(if $(unknown),$(if $(filter 0,$(MAKELEVEL)),$(error There is no variable $(unknown); make help lists them)))

# In the environment LINES is the height of the terminal.
ifneq ($(origin LINES),command line)
override LINES :=
endif

# Named and empty, it takes all aliases away.
ifeq ($(origin ALIASES)=$(value ALIASES),command line=)
override ALIASES := ,
endif

# What was typed stays as it was typed: $(value) takes the text without expanding it, := keeps it so, and what make
# would hand to makes of its own (with the text to be expanded again) is left out.
$(foreach name,$(VARIABLES),$(eval override $(name) := $$(value $(name))))
export $(VARIABLES)
MAKEOVERRIDES :=

play = TENANCY_GOAL=$@ tools/bootstrap.sh $(if $(INVENTORY),runtime,local) && exec .venv/bin/python tools/play.py

.PHONY: help
help: ## List the targets
	sed -n 's/^\([a-z][a-z_-]*\): .*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r target text; do \
	  printf '  make %-24s %s\n' "$$target" "$$text"; done
	sed -n 's/^#@ \{0,1\}//p' Makefile

.PHONY: multi_tenancy multi_tenancy-status multi_tenancy-logs multi_tenancy-restart
multi_tenancy: ## Set up the platform and add or update a client: CLIENT_ID= DOMAIN= ISOLATION_LEVEL=
	$(play) playbooks/multi_tenancy.yml

multi_tenancy-status: ## Show clients, their levels, domains and health
	$(play) playbooks/status.yml

multi_tenancy-logs: ## Show the logs of the platform and of clients: CLIENT_ID= SERVICE= LINES=
	$(play) playbooks/logs.yml

multi_tenancy-restart: ## Restart the platform and clients, and wait until they are healthy: CLIENT_ID=
	$(play) playbooks/restart.yml

.PHONY: install_scripts
install_scripts: ## Install the scripts on the host, which need no checkout
	$(play) playbooks/install_scripts.yml

.PHONY: add_client update_client suspend_client resume_client remove_client list_clients
add_client: ## Add a client: CLIENT_ID= DOMAIN= ISOLATION_LEVEL= ALIASES= SERVICES= RESTORE_DATA=latest
	$(play) playbooks/add_client.yml

update_client: ## Change what is named of a client: CLIENT_ID= DOMAIN= ALIASES= SERVICES= PROTECTED=
	$(play) playbooks/update_client.yml

suspend_client: ## Stop a client's services and answer its visitors with 503: CLIENT_ID=
	$(play) playbooks/suspend_client.yml

resume_client: ## Bring a suspended client back: CLIENT_ID=
	$(play) playbooks/resume_client.yml

remove_client: ## Remove a client and keep its data, or delete it with PURGE=1 [YES=1]: CLIENT_ID=
	$(play) playbooks/remove_client.yml

list_clients: ## List the clients of the registry
	$(play) playbooks/list_clients.yml

.PHONY: lint test test-unit test-sanity test-integration test-bare test-molecule test-full
lint: ## Run all linters
	exec tools/test.sh lint

test: ## Run linters and all tests, and sum up
	exec tools/test.sh lint unit sanity integration bare molecule

test-unit: ## Run the unit tests
	exec tools/test.sh unit

test-sanity: ## Run ansible-test sanity
	exec tools/test.sh sanity

test-integration: ## Run the integration tests on this machine's engine
	exec tools/test.sh integration

test-bare: ## Run the tests on bare Debian machines
	exec tools/test.sh bare

test-molecule: ## Run all Molecule scenarios
	exec tools/test.sh molecule

test-full: ## Run everything at full length; run again to resume after a failure
	TENANCY_FULL=1 exec tools/test.sh lint unit sanity integration bare molecule

.PHONY: build requirements clean
build: ## Build the collection archive into build/
	tools/bootstrap.sh runtime
	.venv/bin/ansible-galaxy collection build --force --output-path build/ .

requirements: ## Pin the newest packages of requirements/*.in with their hashes
	tools/bootstrap.sh dev
	exec tools/requirements.sh

clean: ## Remove what make created in this checkout
	rm -rf .ansible .cache .venv .venv-dev .hypothesis .mypy_cache .pytest_cache .ruff_cache build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

#@
#@ Clients:  CLIENT_ID= DOMAIN= ALIASES=a,b ISOLATION_LEVEL=soft|medium|hard SERVICES=a,b PROTECTED=1  SERVICE= LINES=
#@ Levels:   EGRESS=allow|deny EGRESS_ALLOW=cidr:port,... RATE_LIMIT=per-second:at-once (soft, medium)
#@           MEMORY=1g CPUS=1.5 PIDS=512 DISK=10g (hard, for the client as a whole)
#@ Removal:  PURGE=1 (delete the data) YES=1 (do not ask)  RESTORE_DATA=latest (when adding again)
#@ Platform: DEFAULT_CLIENT_ID= ROOT_DOMAIN= CLIENTS=a,b,c CUSTOM_CONFIG=file.yaml AGENCY_ROOT=directory
#@           FORCE=1 (make containers, networks and generated files anew; registry, data and certificates stay)
#@ Runs:     CHECK=1 (plan and diff only)  DIFF=1  VERBOSE=1  INVENTORY=file LIMIT=hosts  ANSIBLE_ARGS='...'
