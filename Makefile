# iot: an IoT platform as a PostgreSQL extension
#
#   make            build iot.so, iot_worker.so, iot-pushd, iot-token and the device simulator
#   make install    into the server that PG_CONFIG names (programs go beside psql)
#   make demo       a command travels to a simulated device and comes back over WebSocket
#   make test       every test, on private servers
#   make test-matrix   the same on the other versions that Debian carries; MATRIX='17 18' for some
#   make torture    kills every process at every step, and holds what happened against the promises
#   make fuzz       hostile input to every parser, for FUZZ_SECONDS
#   make sanitize   tests with all of ours under AddressSanitizer and UndefinedBehaviorSanitizer
#   make soak       a million messages, and the memory of workers and daemon over them
#   make bench      figures beside their limits; BENCH='push command' for some of them

EXTENSION    = iot
EXTVERSION  := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" iot.control)
MODULE_big   = iot
CORE_OBJS    = $(patsubst %.c,%.o,$(wildcard src/core/*.c))
OBJS         = $(patsubst %.c,%.o,$(wildcard src/*.c)) $(CORE_OBJS)
SHLIB_LINK   = -lcjson -lcrypto
SQL_MODULES  = $(sort $(wildcard sql/[0-9]*.sql))
# Modules that an update runs as well, and the scripts from versions that were released to this one.
RERUN_MODULES = $(filter-out sql/00_guard.sql sql/99_run_install.sql, $(SQL_MODULES))
UPDATES      = $(patsubst sql/update/%.delta.sql,sql/%.sql, \
			   $(wildcard sql/update/iot--*--$(EXTVERSION).delta.sql))
DATA_built   = sql/iot--$(EXTVERSION).sql $(UPDATES)
DATA         = $(filter-out $(DATA_built), $(wildcard sql/iot--*.sql))

PROGRAMS     = iot-pushd iot-token
PUSHD_OBJS   = $(patsubst %.c,%.o,$(filter-out src/pushd/token.c, $(wildcard src/pushd/*.c)))
WWW          = $(wildcard src/pushd/www/*)
WWW_DIR      = $(datadir)/iot/www
SIM          = test/sim/iot-sim
SIM_OBJS     = $(patsubst %.c,%.o,$(wildcard test/sim/*.c))
PROGRAM_CFLAGS = -O2 -g -fstack-protector-strong -Wall -Wextra -Wno-unused-parameter $(COPT)

WORKER       = bgworker/iot_worker
WORKER_OBJS  = $(patsubst %.c,%.o,$(wildcard bgworker/*.c))

DEPENDS      = $(patsubst %.o,%.d,$(OBJS) $(WORKER_OBJS) $(PUSHD_OBJS) src/pushd/token.o $(SIM_OBJS))
EXTRA_CLEAN  = $(WORKER)$(DLSUFFIX) $(WORKER_OBJS) $(PUSHD_OBJS) src/pushd/token.o $(SIM_OBJS) \
			   $(PROGRAMS) $(SIM) $(DEPENDS) $(DATA_built) $(UNIT) $(UNIT:%=%.d) \
			   $(wildcard src/core/*.san.[od] src/pushd/*.san.[od]) iot-pushd.san $(BENCH_PROGRAMS) $(FUZZ) \
			   $(foreach folder,src/core src/pushd test/fuzz,$(wildcard $(folder)/*.fuzz.[od])) tmp_check

# fmgr's signatures leave arguments unused, and the server's headers compare signs.
PG_CFLAGS    = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers
PG_CPPFLAGS  = -I$(CURDIR)/src -I$(CURDIR) -MMD -MP
# installcheck runs against the server that is up and preloads iot; `make test` needs none.
REGRESS      = $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql))
REGRESS_OPTS = --inputdir=test
ISOLATION    = $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec))
ISOLATION_OPTS = --inputdir=test --outputdir=.

# No bitcode: nothing of ours is worth inlining into a query, and it would ask for clang.
override with_llvm = no

PG_CONFIG   ?= pg_config
PGXS        := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq ($(PGXS),)
include $(PGXS)
else ifneq ($(filter-out test test-matrix demo torture sanitize soak bench,$(or $(MAKECMDGOALS),all)),)
# those install what is missing first, the others need it
$(error no server headers: install postgresql-server-dev-NN, or name its pg_config by PG_CONFIG)
endif

.DEFAULT_GOAL := all
all: $(WORKER)$(DLSUFFIX) $(PROGRAMS) $(SIM)

# One script from the modules; "OR REPLACE" belongs to updates only (an installation must never
# take over an object that is already there).
sql/iot--$(EXTVERSION).sql: $(SQL_MODULES) iot.control
	sed -E 's/^CREATE OR REPLACE /CREATE /' $(SQL_MODULES) > $@.tmp && mv $@.tmp $@

# From a version that was released: what the modules cannot say, such as a function that is no more,
# is in the delta; then everything is made again in place.  Tables are left to iot.migrate().
$(UPDATES): sql/%.sql: sql/update/%.delta.sql sql/update/guard.sql $(RERUN_MODULES) iot.control
	cat sql/update/guard.sql $< $(RERUN_MODULES) > $@.tmp && mv $@.tmp $@

# The worker's library resolves iot's own symbols from iot.so, which is preloaded.
$(WORKER)$(DLSUFFIX): $(WORKER_OBJS)
	$(CC) $(CFLAGS) $(WORKER_OBJS) $(LDFLAGS) $(LDFLAGS_SL) -shared -o $@ -lmosquitto -lcurl -lcrypto

iot-pushd: $(PUSHD_OBJS) $(CORE_OBJS)
	$(CC) $^ $(LDFLAGS) -o $@ -L$(libdir) -lpq -lwebsockets -lwslay -ljwt -lcjson -lcrypto -lm

iot-token: src/pushd/token.o $(CORE_OBJS)
	$(CC) $^ $(LDFLAGS) -o $@ -lcjson -lcrypto -lm

$(SIM): $(SIM_OBJS) $(CORE_OBJS)
	$(CC) $^ $(LDFLAGS) -o $@ -lmosquitto -lcjson -lcrypto -lm

PUSHD_DEFINES = -DDEFAULT_WWW='"$(WWW_DIR)"' -DIOT_VERSION='"$(EXTVERSION)"'
src/pushd/main.o: iot.control
$(PUSHD_OBJS): PROGRAM_CFLAGS += $(PUSHD_DEFINES)
$(PUSHD_OBJS) src/pushd/token.o $(SIM_OBJS): %.o: %.c
	$(CC) $(PROGRAM_CFLAGS) -I$(CURDIR)/src -I$(includedir) -MMD -MP -c -o $@ $<

install: install-more
install-more: all
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)' '$(DESTDIR)$(bindir)'
	$(INSTALL_SHLIB) $(WORKER)$(DLSUFFIX) '$(DESTDIR)$(pkglibdir)/'
	$(INSTALL_PROGRAM) $(PROGRAMS) '$(DESTDIR)$(bindir)/'
	$(MKDIR_P) '$(DESTDIR)$(WWW_DIR)'
	$(INSTALL_DATA) $(WWW) '$(DESTDIR)$(WWW_DIR)/'

uninstall: uninstall-more
uninstall-more:
	rm -f '$(DESTDIR)$(pkglibdir)/iot_worker$(DLSUFFIX)' $(PROGRAMS:%='$(DESTDIR)$(bindir)/%')
	rm -rf '$(DESTDIR)$(WWW_DIR)'

# An installation below a folder of its own, for tests and the demo: no root, no touched server.
stage:
	@test -n "$(STAGE)" || { echo 'usage: make stage STAGE=folder' >&2; exit 1; }
	$(MAKE) --no-print-directory install DESTDIR='$(STAGE)'

# Unit tests of the plain C core, one program a file; those of the daemon's parts include them.
# All of it runs under the sanitizers, the core's objects included.
UNIT         = $(patsubst %.c,%,$(wildcard test/unit/*.c))
UNIT_CFLAGS  = $(PROGRAM_CFLAGS) -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
UNIT_OBJS    = $(patsubst %.c,%.san.o,$(wildcard src/core/*.c))
PUSHD_SAN    = $(PUSHD_OBJS:%.o=%.san.o)
$(UNIT_OBJS) $(PUSHD_SAN): %.san.o: %.c
	$(CC) $(UNIT_CFLAGS) $(PUSHD_DEFINES) -I$(CURDIR)/src -I$(includedir) -MMD -MP -c -o $@ $<
$(UNIT): %: %.c $(UNIT_OBJS)
	$(CC) $(UNIT_CFLAGS) -I$(CURDIR)/src -I$(includedir) -MMD -MP -MF $@.d -o $@ $< $(UNIT_OBJS) \
		$(LDFLAGS) -lcmocka -lcjson -ljwt -lwslay -lcrypto -lm
# The daemon under the same, for a test that looks for leaks.
iot-pushd.san: $(PUSHD_SAN) $(UNIT_OBJS)
	$(CC) $(UNIT_CFLAGS) $^ $(LDFLAGS) -o $@ -L$(libdir) -lpq -lwebsockets -lwslay -ljwt -lcjson \
		-lcrypto -lm
unit: $(UNIT)
	@set -e; for program in $(UNIT); do ./$$program; done

# Fuzz targets, one program a file below test/fuzz, under libFuzzer and the sanitizers; those that
# need the push daemon have all of it but its loop.
FUZZ_DAEMON  = cells http session
FUZZ         = $(filter-out test/fuzz/daemon_%,$(patsubst %.c,%,$(wildcard test/fuzz/*.c)))
FUZZ_CFLAGS  = -g -O1 -Wall -Wextra -Wno-unused-parameter $(COPT) \
			   -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
FUZZ_CORE    = $(patsubst %.c,%.fuzz.o,$(wildcard src/core/*.c)) src/pushd/auth.fuzz.o \
			   src/pushd/frame.fuzz.o
FUZZ_PUSHD   = $(filter-out $(FUZZ_CORE) src/pushd/main.% src/pushd/listen.% src/pushd/token.%, \
				 $(patsubst %.c,%.fuzz.o,$(wildcard src/pushd/*.c))) \
			   test/fuzz/daemon_loop.fuzz.o test/fuzz/daemon_pg.fuzz.o
FUZZ_LIBS    = -lcjson -ljwt -lwslay -lcrypto -lm
%.fuzz.o: %.c
	clang $(FUZZ_CFLAGS) -DDEFAULT_WWW='""' -I$(CURDIR)/src -I$(includedir) -MMD -MP -c -o $@ $<
# headers and functions of the library; those that move bytes are the target's own
$(FUZZ_DAEMON:%=test/fuzz/%): %: %.fuzz.o $(FUZZ_PUSHD) $(FUZZ_CORE)
	clang $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $^ $(FUZZ_LIBS) -lwebsockets
$(filter-out $(FUZZ_DAEMON:%=test/fuzz/%),$(FUZZ)): %: %.fuzz.o $(FUZZ_CORE)
	clang $(FUZZ_CFLAGS) -fsanitize=fuzzer -o $@ $^ $(FUZZ_LIBS)
fuzz-programs: $(FUZZ)
fuzz: fuzz-programs
	test/fuzz/run long $(FUZZ)

# Tests again, with all of ours under sanitizers; SANITIZE='regress test/t/010_saga.pl' for some.
sanitize:
	+test/sanitize $(SANITIZE)
# A million messages, and nobody has grown by them.
SOAK_MESSAGES ?= 1000000
soak:
	+IOT_SOAK_MESSAGES=$(SOAK_MESSAGES) test/run test/t/116_soak.pl test/t/117_pushd_leaks.pl

# Clients and yardsticks of `make bench`.
BENCH_PROGRAMS = test/bench/latency test/bench/fanout_clients test/bench/fanout_server \
			   test/bench/mqtt_load
$(BENCH_PROGRAMS): %: %.c test/bench/ws_client.c test/bench/ws_client.h
	$(CC) $(PROGRAM_CFLAGS) -D_GNU_SOURCE -I$(includedir) -o $@ $(filter %.c,$^) $(LDFLAGS) \
		-L$(libdir) -lpq -lmosquitto -lwebsockets
bench-programs: $(BENCH_PROGRAMS)

test:
	+test/run $(TESTS)
test-matrix:
	+test/matrix/matrix
.PHONY: test-matrix
# The pictures of doc/, anew.
screenshots:
	+IOT_SCREENSHOTS=doc/images test/run test/t/106_page.pl
demo:
	+test/demo/demo
torture:
	+test/torture/torture
bench:
	+test/bench/bench $(BENCH)

.PHONY: screenshots install-more uninstall-more stage unit fuzz fuzz-programs sanitize soak test demo torture bench bench-programs

-include $(DEPENDS) $(wildcard test/unit/*.d src/core/*.san.d src/pushd/*.san.d src/core/*.fuzz.d src/pushd/*.fuzz.d \
		 test/fuzz/*.fuzz.d)
