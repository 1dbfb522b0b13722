# Targets for people and for CI:
#
#   make          what is needed to run, then bin/balancer; PKCS11=0 builds it without
#                 tokens, and then without a C compiler and without libc
#   make demo     balancing shown on a private Tor network; ROTATE=1 goes on over
#                 a change of the time period and of the shared random value; INSTANCES=30
#                 takes that many, LIMIT=3 that many introduction points in a descriptor;
#                 HOSTING=1 shows customers with addresses of their own on shared instances;
#                 CLUSTER=1 shows three managers that share addresses by three etcd
#   make test     vet, staticcheck and all tests, nearly all with the race detector
#   make soak     tests of months, in virtual time, which take minutes
#   make bench    figures beside OnionBalance's, in a quarter of an hour; NETWORK=0 leaves
#                 out those that take a network, and make bench-network takes them alone
#   make bench-scale  memory and processor time of 10 to 10,000 services in virtual
#                 time, which takes long; JSON=1 prints one object a line
#   make bench-hosting  a month of 10 to 10,000 customers in virtual time, for doc/hosting.md,
#                 which takes some hours; RUNS=1000:30,10000:3 simulates 1,000 for 30 days
#                 and 10,000 for 3, JSON=1 prints one object a line
#   make bench-checks what health checks of 60 instances cost, on a private Tor network, in
#                 ten minutes; JSON=1 prints all figures
#   make failover what visitors lose when instances fail, beside OnionBalance, on a private
#                 Tor network, as root, in an hour; ROWS=kill,web takes those rows,
#                 JSON=1 prints all figures
#   make compare  30 instances beside OnionBalance, on a private Tor network, in ten minutes;
#                 JSON=1 prints all figures
#   make research the figures of doc/research, simulated again; PAGES="stale-reads any-number"
#                 takes those pages, JSON=1 prints all figures
#   make fuzz     every fuzz target for FUZZTIME (20s), each with FUZZLEAST inputs at
#                 least (1000); FUZZ=./descriptor takes those of one package
#   make deps     Debian packages that are missing for any of these
#   make clean    removes what make made
#
# Missing Debian packages are installed when make runs as root. Otherwise the one
# command that installs them is printed, and make stops.

GO       ?= $(shell command -v go || echo /usr/local/go/bin/go)
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 20s
FUZZLEAST ?= 1000
PKCS11   ?= 1

# What computes with secrets runs in runtime/secret, which erases what it leaves
# on the stack and the heap.
export GOEXPERIMENT ?= runtimesecret

# PKCS #11 modules are C libraries. Only the helper process loads them; names are
# looked up without libc all the same. With libc's loader there, the program's
# own text is placed at random, and what the loader writes is read-only before
# main. Without libc nothing could place it, so PKCS11=0 is static and fixed.
comma = ,
ifeq ($(PKCS11),0)
BUILD_FLAGS =
LINK_FLAGS  =
else
BUILD_FLAGS = -buildmode=pie -tags netgo,osusergo
LINK_FLAGS  = -linkmode=external -extldflags "-Wl$(comma)-z$(comma)relro$(comma)-z$(comma)now$(comma)-z$(comma)noexecstack"
export CGO_CFLAGS ?= -O2 -g -fstack-protector-strong -D_FORTIFY_SOURCE=2
endif

# The arithmetic of curves shares no memory between goroutines, and takes a fifth of
# the tests' time under the race detector, which need not follow it.
RACE_FLAGS = -race -gcflags=crypto/internal/fips140/edwards25519/...=-race=false \
	-gcflags=filippo.io/edwards25519/...=-race=false

# These live through hours and days of virtual time, which takes seven times as long under the
# race detector. It looks at the other tests of their packages, which take the same paths.
LONG = (TestMonth[A-Za-z]*|TestTorsDeadOverNoon|TestOneCounter|TestReservationsAreForgotten|TestTurnover|TestStale|TestStoreOutage|TestRotationInOutage|TestSkewedClocks|TestSplit|TestSummary|TestWithdrawn|TestCeremonyForgotten|TestActiveCutOff|TestOldConsensus|TestRandomFaults|TestTenThousand)
LONG_IN = $(sort $(dir $(shell grep -lrE --include='*_test.go' '^func $(LONG)\b' .)))

.PHONY: all build test soak bench bench-network bench-scale bench-hosting bench-checks failover compare research fuzz demo deps clean go need-run need-test need-bench need-compare need-failover

all: need-run build

build: go
	CGO_ENABLED=$(if $(filter 0,$(PKCS11)),0,1) $(GO) build -trimpath $(BUILD_FLAGS) \
		-ldflags '-s -w -X main.version=$(VERSION) $(LINK_FLAGS)' -o bin/balancer ./cmd/balancer

test: need-test go
	$(MAKE) build PKCS11=1
	$(GO) vet ./...
	CGO_ENABLED=0 $(GO) vet ./...
	$(GO) tool staticcheck ./...
	CGO_ENABLED=1 $(GO) test -run '^$(LONG)$$' -timeout 15m $(LONG_IN)
	GORACE=atexit_sleep_ms=0 CGO_ENABLED=1 BALANCER_BINARY=$(CURDIR)/bin/balancer $(GO) test $(RACE_FLAGS) -skip '^$(LONG)$$' -timeout 15m ./...

soak: need-test go
	BALANCER_SOAK=1 CGO_ENABLED=1 $(GO) test -timeout 60m -count=1 -run 'Month|Turnover|Stale|Hostile|ManyFaults|Mutate|Bundle|Rare|OneCounter' ./internal/balance ./testnet/sim ./testnet/tell ./descriptor
	BALANCER_SOAK=1 $(GO) test -timeout 60m -count=1 ./internal/cluster ./internal/standby
	BALANCER_SOAK=1 $(GO) test -timeout 60m -count=1 -run TwoMachines ./internal/daemon
	BALANCER_SOAK=1 $(GO) test -timeout 60m -count=1 ./testnet/managers
	BALANCER_SOAK=1 $(GO) test -count=1 -run FiguresAgain ./bench/research
	BALANCER_SOAK=1 $(GO) test -count=1 -run Hammer ./internal/hosting/api ./cmd/balancer
	BALANCER_SOAK=1 $(GO) test -count=1 -run 'CeremonyOfAShard|DemoHosting' ./cmd/balancer

bench: need-bench go
	GO=$(GO) $(GO) run ./bench $(if $(filter 0,$(NETWORK)),-network=false)

bench-network: need-bench go
	GO=$(GO) $(GO) run ./bench -cpu=false -custody=false

bench-scale: go
	@GO=$(GO) $(GO) run ./bench/scale/run $(if $(filter 1,$(JSON)),-json)

bench-hosting: go
	@GO=$(GO) $(GO) run ./bench/hosting/run $(if $(RUNS),-runs $(RUNS)) $(if $(filter 1,$(JSON)),-json)

bench-checks: need-run go
	@GO=$(GO) $(GO) run ./bench/checks $(if $(filter 1,$(JSON)),-json)

failover: need-failover go
	@GO=$(GO) $(GO) run ./bench/failover $(if $(ROWS),-rows $(ROWS)) $(if $(filter 1,$(JSON)),-json)

compare: need-compare go
	@GO=$(GO) $(GO) run ./bench/compare $(if $(filter 1,$(JSON)),-json)

research: go
	@$(GO) run ./bench/research $(if $(filter 1,$(JSON)),-json) $(PAGES)

fuzz: go
	@scripts/fuzz $(GO) $(FUZZTIME) $(FUZZLEAST) $(FUZZ)

demo: all
	$(if $(CLUSTER),@scripts/need etcd-server)
	bin/balancer demo $(if $(ROTATE),--rotate) $(if $(INSTANCES),--instances $(INSTANCES)) $(if $(LIMIT),--limit $(LIMIT)) $(if $(HOSTING),--hosting) $(if $(CLUSTER),--cluster)

deps: go
	@scripts/need tor gcc libc6-dev softhsm2 opensc openssl systemd curl python3 etcd-server etcd-client onionbalance nftables

go:
	@scripts/need-go $(GO)

need-run:
	@scripts/need tor $(if $(filter 0,$(PKCS11)),,gcc libc6-dev)

need-test:
	@scripts/need tor gcc libc6-dev softhsm2 opensc openssl systemd curl python3 etcd-server etcd-client

need-bench:
	@scripts/need tor gcc libc6-dev softhsm2 opensc onionbalance

need-compare:
	@scripts/need tor onionbalance

need-failover:
	@scripts/need tor nftables onionbalance

clean:
	rm -rf bin .demo .testnet
