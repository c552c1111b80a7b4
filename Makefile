# make            build/nocturne                    make check     every test (SAN=address,undefined or SAN=thread)
# make check-long  what takes ten minutes and more   make demo      install what is missing, build, show it at work
# make check-aarch64  the engine for aarch64, emulated
# make faults     RUNS=200 SEED=1: disturbed runs   (FAULTS_FLAGS='--only SEED' repeats one)
# make power      power cuts after each call of recorded runs (CUTS=8: random choices of what is lost)
# make check-cuda  the CUDA kernels on an emulated GPU, in four modes   make cuda-report cuda-count cuda-model  their figures
# make check-gpu  the same kernels, goldens and the demo's masks on this machine's GPU
# make check-planted  which mode finds which fault planted in the CUDA kernels
# make info       parts, versions, flags            make bench     speed of the engine on this machine
# make deps       the distribution's packages       make bench-peers bench-archive  beside other engines, beside PyTorch
# make check-peers  evaluate beside surface-distance and MONAI: the same values, and times
# make lint       clang-tidy, layers                make format    clang-format over the sources
# make install    PREFIX=/usr/local DESTDIR=        make clean     removes the build folder
# make uninstall  likewise                          make fuzz      SECONDS=60: fuzzing, so long each reader
#
# Each floor is an archive of all *.c in its folder; each tests/test_*.c is a program linked with the floors it includes, and
# so is each tests/prog_*.c, which the program tests (tests/*.t) start; tests/shim_*.c become libraries that they preload.
# Variables: NVCC= (without CUDA), NVCC_GENCODE, CXX, CC, CFLAGS, CPPFLAGS, LDFLAGS, WERROR= (warnings stay warnings), SAN, BUILD, MPICC, PROVE_FLAGS, V=1 (commands).

SHELL := /bin/sh
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all

empty :=
comma := ,
space := $(empty) $(empty)

ifeq ($(origin CC),default)
CC := gcc
endif
export CC
AR ?= ar
SAN ?=
BUILD ?= build$(if $(SAN),/san-$(subst $(comma),-,$(SAN)))
LIBCPU ?= $(BUILD)/libcpu.a
PREFIX ?= /usr/local
CFLAGS ?= -O2 -g
WERROR ?= -Werror
PROVE ?= prove
# Two at a time: one of the program tests, which start several processes each, beside those of the emulated GPU, which only
# compute, or a Check program.
PROVE_FLAGS ?= -j2 --rules 'seq=tests/{cuda,kernels}.t' --rules 'seq=tests/*' --rules 'par=**'
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $(2)")

# What needs neither the libraries nor a compiler: everything else reads what find_parts.sh found.
PLAIN_GOALS := deps demo check check-aarch64 clean format layers fuzz uninstall
ifneq ($(filter-out $(PLAIN_GOALS),$(or $(MAKECMDGOALS),all)),)
include $(BUILD)/config.mk
endif

$(BUILD)/config.mk: scripts/find_parts.sh
	@mkdir -p $(BUILD)
	@scripts/find_parts.sh $@

# --- flags -----------------------------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(WERROR)
SANITIZE := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)
BASE_FLAGS := -std=c11 -D_GNU_SOURCE -I. $(CPPFLAGS) $(CFLAGS) $(WARNINGS) -pthread $(SANITIZE)
PLAIN_FLAGS := $(BASE_FLAGS) -ffp-contract=off
KERNEL_FLAGS := $(BASE_FLAGS) -O3 -ffp-contract=fast -fno-math-errno
X86 := $(filter x86_64%,$(TARGET))
CPU_FLAGS := -O3 $(if $(X86),-DNOC_HAVE_X86)
ISA_portable := -DNOC_ISA_PORTABLE
ISA_avx2 := -DNOC_ISA_AVX2 -mavx2 -mfma
ISA_avx512 := -DNOC_ISA_AVX512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma
ISA_amx := -DNOC_ISA_AMX $(filter -m%,$(ISA_avx512)) -mavx512bf16 -mavx512fp16 -mavx512vbmi -mamx-tile -mamx-bf16
ISAS := portable $(if $(X86),avx2 avx512)

# The CUDA kernels are compiled by nvcc for GPUs, and by the host's compiler, against tests/emulation, for tests. In builds
# with sanitizers only the second is done.
NVCC_GENCODE ?= -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90
CUDA := $(if $(SAN),,$(NVCC))
CUDA_TARGETS := $(subst $(space),$(comma)$(space),$(strip $(patsubst code=%,%,$(filter code=%,$(subst $(comma), ,$(NVCC_GENCODE))))))
CUDA_C_FLAGS := $(if $(CUDA_INCLUDE),-isystem $(CUDA_INCLUDE))
NVCC_FLAGS := -std=c++17 -O3 $(NVCC_GENCODE) -ccbin $(CXX) -I. -Xcompiler -Wall -Xptxas -v
EMULATED_FLAGS := -std=c++17 $(CFLAGS) -Wall -Wextra $(WERROR) -Wno-unknown-pragmas -fno-strict-aliasing -pthread \
    -DNOC_CUDA_EMULATED -Itests/emulation -I. $(CUDA_C_FLAGS)
# The emulation's own accesses are no thread's of a kernel.
EMULATION_FLAGS := $(EMULATED_FLAGS) $(if $(findstring thread,$(SAN)),-DEMU_TSAN) $(if $(findstring address,$(SAN)),-fsanitize=address)

VERSION := $(shell cat VERSION)
COMMIT := $(or $(shell git -c 'safe.directory=*' rev-parse --short=12 HEAD 2>/dev/null),unknown)
VERSION_FLAGS := -DNOC_VERSION='"$(VERSION)"' -DNOC_COMMIT='"$(COMMIT)"'

LIBS_base := -lcrypto -lyaml -ljansson
LIBS_volume := -lnifti2 -lznz -lz -lm -ldeflate
LIBS_cpu := -lm
LIBS_cuda := $(if $(CUDA),$(CUDA_LIBS))
LIBS_cuda_emulated := -lstdc++ -lm
LIBS_engine := -lm
LIBS_catalog := -lsqlite3
LIBS_pipeline := $(HDF5_LIBS) $(MPI_LIBS)
ALL_LIBS := $(LIBS_pipeline) $(LIBS_catalog) $(LIBS_engine) $(LIBS_cuda) $(LIBS_volume) $(LIBS_base) -lm

# --- sources ---------------------------------------------------------------------------------------------------------

OBJ := $(BUILD)/obj
objects = $(patsubst %.c,$(OBJ)/%.o,$(sort $(wildcard $(1)/*.c)))

KERNELS := $(sort $(wildcard engine/cpu/kernels*.c))
KERNELS_F32 := $(filter-out %_bf16.c,$(KERNELS))
KERNELS_BF16 := $(filter %_bf16.c,$(KERNELS)) engine/cpu/kernels.c engine/cpu/kernels_gather.c \
    engine/cpu/kernels_peak.c
OBJECTS_base := $(call objects,engine/base)
OBJECTS_volume := $(call objects,engine/volume)
OBJECTS_cpu := $(filter-out $(KERNELS:%.c=$(OBJ)/%.o),$(call objects,engine/cpu)) \
    $(foreach isa,$(ISAS),$(KERNELS_F32:%.c=$(OBJ)/%.$(isa).o)) $(if $(X86),$(KERNELS_BF16:%.c=$(OBJ)/%.amx.o))
CUDA_SOURCES := $(filter-out engine/cuda/absent.c,$(sort $(wildcard engine/cuda/*.c)))
CUDA_KERNELS := $(sort $(wildcard engine/cuda/*.cu))
OBJECTS_cuda := $(if $(CUDA),$(CUDA_SOURCES:%.c=$(OBJ)/%.o) $(CUDA_KERNELS:%.cu=$(OBJ)/%.o),$(OBJ)/engine/cuda/absent.o)
COUNTERS := tests/emulation/counters.cpp
OBJECTS_cuda_emulated := $(patsubst %,$(OBJ)/emulated/%.o,$(basename $(CUDA_SOURCES) $(CUDA_KERNELS) \
    $(filter-out $(COUNTERS),$(wildcard tests/emulation/*.cpp))))
OBJECTS_engine := $(call objects,engine)
OBJECTS_catalog := $(call objects,catalog)
OBJECTS_worker := $(call objects,worker)
OBJECTS_pipeline := $(filter-out $(OBJ)/pipeline/main.o,$(call objects,pipeline))
FLOORS := base volume cpu cuda engine catalog worker pipeline
ARCHIVES := $(FLOORS:%=$(BUILD)/lib%.a)
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
CUDA_TESTS := $(filter $(BUILD)/tests/test_cuda%,$(TESTS))
ifeq ($(CUDA_INCLUDE),)
TESTS := $(filter-out $(CUDA_TESTS),$(TESTS))
endif
TEST_PROGRAMS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/prog_*.c)))
TEST_SHIMS := $(patsubst tests/%.c,$(BUILD)/tests/%.so,$(sort $(wildcard tests/shim_*.c)))
PROGRAM_TESTS := $(sort $(wildcard tests/*.t))
LONG_TESTS := $(sort $(wildcard tests/*.lt))
FUZZERS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(filter-out tests/fuzz/fuzz.c,$(sort $(wildcard tests/fuzz/*.c))))
SOURCES := $(sort $(foreach d,engine engine/base engine/volume engine/cpu engine/cuda catalog worker pipeline tests tests/fuzz,\
    $(wildcard $(d)/*.c) $(wildcard $(d)/*.h)))

# What the includes of a test reach: the sources that it shares with other tests, and the floors, highest first, so that a
# test waits for no floor above it.
shared = $(sort $(wildcard $(patsubst %.h,%.c,$(shell sed -n 's|^\#include "\(tests/.*\)".*|\1|p' $(1)))))
reached = $(filter-out $(NO_FLOOR),$(shell if grep -q '^\#include "pipeline/' $(1); then echo pipeline worker catalog engine cuda cpu volume base; \
    elif grep -q '^\#include "worker/' $(1); then echo worker catalog engine cuda cpu volume base; \
    elif grep -q '^\#include "catalog/' $(1); then echo catalog volume base; \
    elif grep -q '^\#include "engine/[a-z0-9_]*\.h"\|^\#include "engine/cpu/' $(1); then echo engine cuda cpu volume base; \
    elif grep -q '^\#include "engine/cuda/' $(1); then echo cuda base; \
    elif grep -q '^\#include "engine/volume/' $(1); then echo volume base; \
    else echo base; fi))
headers = $(wildcard $(patsubst %.c,%.h,$(1)))

# --- building --------------------------------------------------------------------------------------------------------

.PHONY: all archives tests info deps demo check check-all check-long check-aarch64 check-cuda check-gpu check-peers cuda-report cuda-count bench bench-peers bench-archive peers lint layers format install uninstall clean fuzzers fuzz power faults cuda-model cuda-programs check-planted FORCE

all: $(BUILD)/nocturne

archives: $(ARCHIVES)

tests: $(TESTS) $(TEST_PROGRAMS) $(FUZZERS) $(TEST_SHIMS) $(if $(CUDA_INCLUDE),$(BUILD)/nocturne-emulated)

fuzzers: $(FUZZERS)

# A change of flags rebuilds everything; a change of the commit only what says the version.
define write_if_changed
@mkdir -p $(BUILD)
@printf '%s\n' '$(subst ','\'',$(1))' | cmp -s - $@ || printf '%s\n' '$(subst ','\'',$(1))' >$@
endef

$(BUILD)/flags: FORCE
	$(call write_if_changed,$(CC) $(CC_VERSION) $(PLAIN_FLAGS) $(KERNEL_FLAGS) $(CPU_FLAGS) $(LDFLAGS) $(ALL_LIBS) $(MPI_CFLAGS) $(HDF5_CFLAGS) $(CUDA) $(NVCC_FLAGS) $(EMULATION_FLAGS))

$(BUILD)/version: FORCE
	$(call write_if_changed,$(VERSION_FLAGS))

$(OBJ)/engine/volume/%.o: EXTRA := $(NIFTI_CFLAGS)
$(OBJ)/engine/cpu/%.o: EXTRA := $(CPU_FLAGS)
$(OBJ)/engine/cuda/%.o: EXTRA := $(CUDA_C_FLAGS) -DNOC_CUDA_TARGETS='"$(CUDA_TARGETS)"'
$(OBJ)/engine/cuda/absent.o: EXTRA :=
$(OBJ)/pipeline/%.o: EXTRA := $(HDF5_CFLAGS) $(MPI_CFLAGS)
$(OBJ)/pipeline/version.o: EXTRA := $(HDF5_CFLAGS) $(MPI_CFLAGS) $(VERSION_FLAGS)
$(OBJ)/pipeline/version.o: $(BUILD)/version
$(OBJ)/tests/test_cuda%.o $(OBJ)/tests/cuda_%.o: EXTRA := $(CHECK_CFLAGS) $(CUDA_C_FLAGS)
$(OBJ)/tests/%.o: EXTRA := $(CHECK_CFLAGS) $(HDF5_CFLAGS) $(MPI_CFLAGS)

$(OBJ)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,cc  ,$<)
	$(Q)$(CC) $(PLAIN_FLAGS) $(EXTRA) -MMD -MP -c $< -o $@

$(OBJ)/%.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,nvcc,$<)
	$(Q)$(NVCC) $(NVCC_FLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@ 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }

$(OBJ)/emulated/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,cc  ,$< (emulated))
	$(Q)$(CC) $(PLAIN_FLAGS) -DNOC_CUDA_EMULATED $(CUDA_C_FLAGS) -MMD -MP -c $< -o $@

$(OBJ)/emulated/%.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,c++ ,$< (emulated))
	$(Q)$(CXX) $(EMULATED_FLAGS) $(SANITIZE) -MMD -MP -x c++ -c $< -o $@

$(OBJ)/emulated/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,c++ ,$<)
	$(Q)$(CXX) $(EMULATION_FLAGS) -MMD -MP -c $< -o $@

define kernel_rule
$(OBJ)/engine/cpu/%.$(1).o: engine/cpu/%.c $(BUILD)/flags
	@mkdir -p $$(@D)
	$$(call say,cc  ,$$< ($(1)))
	$$(Q)$(CC) $(KERNEL_FLAGS) $(ISA_$(1)) $(if $(X86),-DNOC_HAVE_X86) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,$(ISAS) amx,$(eval $(call kernel_rule,$(isa))))

# Made anew each time, so that no object of a removed file stays inside; .members notes a removed or added file.
define archive_rule
$(BUILD)/lib$(1).members: FORCE
	$$(call write_if_changed,$(OBJECTS_$(1)))
$(BUILD)/lib$(1).a: $(OBJECTS_$(1)) $(BUILD)/lib$(1).members
	@rm -f $$@.new && $(AR) rcsD $$@.new $(OBJECTS_$(1)) && mv $$@.new $$@
endef
$(foreach floor,$(FLOORS) cuda_emulated,$(eval $(call archive_rule,$(floor))))

LINK = $(CC) $(CFLAGS) -pthread $(SANITIZE) $(LDFLAGS) -Wl,--as-needed

$(BUILD)/nocturne: $(OBJ)/pipeline/main.o $(ARCHIVES)
	$(call say,link,$@)
	$(Q)$(LINK) $< -Wl,--start-group $(ARCHIVES) -Wl,--end-group $(ALL_LIBS) -o $@

# The program with an emulated GPU in the place of CUDA, for tests.
EMULATED_ARCHIVES := $(patsubst %/libcuda.a,%/libcuda_emulated.a,$(ARCHIVES))
$(BUILD)/nocturne-emulated: $(OBJ)/pipeline/main.o $(EMULATED_ARCHIVES)
	$(call say,link,$@)
	$(Q)$(LINK) $< -Wl,--start-group $(EMULATED_ARCHIVES) -Wl,--end-group $(LIBS_cuda_emulated) $(ALL_LIBS) -o $@

# $(1) name, $(2) shared sources, $(3) floors, $(4) the framework's libraries
define test_rule
$(BUILD)/tests/$(1): $(OBJ)/tests/$(1).o $(patsubst %.c,$(OBJ)/%.o,$(2)) $(patsubst $(BUILD)/libcpu.a,$(LIBCPU),$(patsubst %,$(BUILD)/lib%.a,$(3)))
	@mkdir -p $$(@D)
	@$(if $(4)$(filter prog_% fuzz/%,$(1)),:,echo 'make: Check not found: apt-get install check  (or: make deps)' >&2; exit 1)
	$$(call say,link,$$@)
	$$(Q)$(LINK) $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $(4) \
	    $(foreach floor,$(3),$(LIBS_$(floor))) -lm -o $$@
endef
define add_test
$(eval $(call test_rule,$(1),$(call shared,tests/$(1).c),$(patsubst cuda,$(if $(filter test_cuda%,$(1)),cuda_emulated,cuda),$(call \
    reached,tests/$(1).c $(call shared,tests/$(1).c) $(call headers,$(call shared,tests/$(1).c)))),$(if $(filter test_%,$(1)),$(CHECK_LIBS))))
endef
$(foreach test,$(notdir $(TESTS) $(TEST_PROGRAMS)) $(FUZZERS:$(BUILD)/tests/%=%),$(call add_test,$(test)))

# Preloaded into the program by tests; without sanitizers, which want to be first.
$(BUILD)/tests/shim_%.so: tests/shim_%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,link,$@)
	$(Q)$(CC) $(filter-out -fsanitize=% -fno-sanitize%,$(PLAIN_FLAGS)) -fPIC -shared $< -ldl -o $@

-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)

# --- goals -----------------------------------------------------------------------------------------------------------

info:
	@echo 'nocturne      $(VERSION) ($(COMMIT))'
	@echo 'build folder  $(BUILD)'
	@echo 'compiler      $(CC) $(CC_VERSION), $(TARGET)'
	@echo 'flags         $(PLAIN_FLAGS)'
	@echo 'kernels       $(KERNEL_FLAGS), for $(ISAS)'
	@echo 'Open MPI      $(MPI_VERSION)   $(MPI_CFLAGS) $(MPI_LIBS)'
	@echo 'HDF5          $(HDF5_VERSION)   $(HDF5_CFLAGS) $(HDF5_LIBS)'
	@echo 'SQLite        $(SQLITE_VERSION)'
	@echo 'NIfTI-2       $(NIFTI_CFLAGS)'
	@echo 'libdeflate    $(DEFLATE_VERSION)'
	@echo 'libyaml       $(YAML_VERSION)'
	@echo 'jansson       $(JANSSON_VERSION)'
	@echo 'libcrypto     $(CRYPTO_VERSION)'
	@echo 'Check         $(or $(CHECK_VERSION),not found: make check needs it)'
	@echo 'CUDA          $(if $(CUDA),nvcc $(NVCC_VERSION) at $(NVCC)$(comma) for $(CUDA_TARGETS),not built: no nvcc that works)$(if $(CUDA_INCLUDE),; emulated in tests)'
	@echo 'sanitizers    $(or $(SAN),none)'

deps:
	@scripts/deps.sh

demo:
	@scripts/deps.sh demo
	@$(MAKE) --no-print-directory all
	@NOC="$(abspath $(BUILD))/nocturne" BUILD="$(abspath $(BUILD))" scripts/demo.sh

check: deps
	@$(MAKE) --no-print-directory check-all

# One count at the end: the Check programs and the program tests all speak TAP. Leaks and races inside of Open MPI are not ours.
# $(1): the tests.
define prove_all
@NOC="$(abspath $(BUILD))/nocturne" BUILD="$(abspath $(BUILD))" SAN=$(SAN) \
    LSAN_OPTIONS="suppressions='$(abspath tests/leaks.supp)':print_suppressions=0" \
    TSAN_OPTIONS="suppressions='$(abspath tests/races.supp)':second_deadlock_stack=1" \
    $(PROVE) $(PROVE_FLAGS) --exec scripts/run_test.sh $(1)
endef

# Each entry for that long, with what earlier ones found in $(BUILD)/fuzz/corpus. FUZZ: names instead of all.
SECONDS := 60
fuzz:
	@BUILD='$(abspath $(BUILD))/fuzz' MAKE='$(MAKE)' scripts/fuzz.sh '$(SECONDS)' $(FUZZ)

check-all: all tests layers $(if $(SAN),,cuda-programs)
	$(call prove_all,$(TESTS) $(PROGRAM_TESTS))

# What takes too long for every check, and needs the larger reference values: NOC_REFERENCE_DIR.
check-long: all
	$(call prove_all,$(LONG_TESTS))

# What tests/power.t does, with more of what a disk may hold after the cut, more kills before it, and more runs that go on.
CUTS ?= 8
power: all $(BUILD)/tests/shim_record.so
	@NOC="$(abspath $(BUILD))/nocturne" BUILD="$(abspath $(BUILD))" POWER_CUTS=$(CUTS) scripts/run_test.sh tests/power.t

# base and engine on another processor, emulated.
check-aarch64:
	@scripts/check_aarch64.sh $(BUILD)/aarch64

# Runs that are disturbed at random instants, and what came out of them: make faults RUNS=200 SEED=1
RUNS ?= 200
SEED ?= 1
faults: all $(TEST_SHIMS)
	@NOC="$(abspath $(BUILD))/nocturne" BUILD="$(abspath $(BUILD))" $(or $(PYTHON),/usr/bin/python3) scripts/faults.py --runs $(RUNS) --seed $(SEED) $(FAULTS_FLAGS)

# What tests/kernels.t runs: the tests of the kernels on the emulated GPU, for the modes of scripts/cuda_mode.sh, and the
# programs that count and limit. The CPU's kernels under them are the plain ones, which are not what is tested here.
cuda_mode = $(MAKE) --no-print-directory SAN=$(2) BUILD=$(BUILD)/cuda-$(1) LIBCPU=$(BUILD)/libcpu.a \
    $(patsubst $(BUILD)/%,$(BUILD)/cuda-$(1)/%,$(filter-out %/test_cuda_faults,$(CUDA_TESTS)))
cuda-programs: $(if $(CUDA_INCLUDE),$(CUDA_TESTS) $(BUILD)/cuda_counts $(BUILD)/cuda_limits) $(if $(CUDA),$(CUDA_KERNELS:%.cu=$(OBJ)/%.o))
	+@$(if $(CUDA_INCLUDE),$(call cuda_mode,address,address$(comma)undefined),:)
	+@$(if $(CUDA_INCLUDE),$(call cuda_mode,thread,thread),:)

# Every planted fault in every mode; tests/kernels.t looks for each in the mode that has to find it.
check-planted: cuda-programs
	@BUILD='$(abspath $(BUILD))' $(or $(PYTHON),/usr/bin/python3) scripts/planted_faults.py --all

check-cuda: cuda-programs
	$(call prove_all,$(CUDA_TESTS) tests/kernels.t)

# The same tests of the kernels on this machine's GPU, but for those that make the emulated one fail; goldens, and masks of the
# demo beside the CPU's.
GPU_TESTS := $(patsubst $(BUILD)/tests/%,$(BUILD)/gpu/%,$(filter-out %_faults %_volume,$(CUDA_TESTS)))
$(BUILD)/gpu/%: $(OBJ)/tests/%.o $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/*_sample.c tests/reference_*.c)) $(ARCHIVES)
	@mkdir -p $(@D)
	$(call say,link,$@)
	$(Q)$(LINK) $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(CHECK_LIBS) $(ALL_LIBS) -o $@
check-gpu: all $(GPU_TESTS)
	$(call prove_all,$(GPU_TESTS) tests/gpu.lt)

# Bank conflicts and sectors of the kernels at usual shapes: the host's compiler calls the counters at each access.
$(OBJ)/counted/%.o: %.cu $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,c++ ,$< (counted))
	$(Q)$(CXX) $(EMULATED_FLAGS) -O1 -fno-tree-vectorize -fno-thread-jumps -fno-pie -fsanitize=thread -MMD -MP -x c++ -c $< -o $@
$(BUILD)/cuda_counts: $(OBJ)/tests/cuda_counts.o $(CUDA_KERNELS:%.cu=$(OBJ)/counted/%.o) \
    $(patsubst %.cpp,$(OBJ)/emulated/%.o,$(wildcard tests/emulation/*.cpp))
	$(Q)$(CXX) -no-pie -pthread $^ $(CHECK_LIBS) -lm -o $@

cuda-count: $(BUILD)/cuda_counts
	@rm -f $(BUILD)/cuda_counts.txt; CK_FORK=no $(BUILD)/cuda_counts >$(BUILD)/cuda_counts.txt; status=$$?; \
	    awk '/^0x/ { ("addr2line -s -i -e $(BUILD)/cuda_counts " $$1 " | grep -m1 cu:") | getline $$1 } 1' $(BUILD)/cuda_counts.txt; \
	    exit $$status

$(BUILD)/cuda_limits: $(OBJ)/emulated/tests/cuda_limits.o $(BUILD)/libcuda_emulated.a
	$(Q)$(CXX) -pthread $(SANITIZE) $^ -lm -o $@

# Registers, stack, spills, shared memory and occupancy of each kernel, against what it promises; and how often the
# instructions that make it fast are in it, where nvdisasm is installed.
CUBINS := $(foreach c,80 90,$(CUDA_KERNELS:engine/cuda/%.cu=$(BUILD)/cubin/%.$(c).cubin))
define cubin_rule
$(BUILD)/cubin/%.$(1).cubin: engine/cuda/%.cu $(wildcard engine/cuda/*.h engine/cuda/*.cuh)
	@mkdir -p $$(@D)
	$$(call say,nvcc,$$< (sm_$(1)))
	$$(Q)$(NVCC) -std=c++17 -O3 -I. -arch=sm_$(1) -cubin -Xptxas -v $$< -o $$@ 2>$$(@:.cubin=.ptxas) || { cat $$(@:.cubin=.ptxas) >&2; exit 1; }
endef
$(foreach c,80 90,$(eval $(call cubin_rule,$(c))))
cuda-report: $(if $(CUDA),$(BUILD)/cuda_limits $(CUDA_KERNELS:%.cu=$(OBJ)/%.o)) $(if $(shell command -v nvdisasm),$(CUBINS))
	@$(if $(CUDA),:,echo 'make: no nvcc here' >&2; exit 1)
	@$(BUILD)/cuda_limits $(CUDA_KERNELS:%.cu=$(OBJ)/%.ptxas)
	@scripts/cuda_instructions.sh $(CUBINS)

# What each kernel's launches must cost in the published network, from the device's instructions and the emulated device's
# launches: a table for BENCHMARKS.md.
$(BUILD)/cuda_model: $(OBJ)/tests/cuda_model.o $(patsubst %.cu,$(OBJ)/emulated/%.o,$(filter engine/cuda/fused_%,$(CUDA_KERNELS))) \
    $(patsubst %.cpp,$(OBJ)/emulated/%.o,$(filter-out $(COUNTERS),$(wildcard tests/emulation/*.cpp)))
	$(Q)$(CXX) -pthread -rdynamic $(SANITIZE) $^ -lm -ldl -o $@

FUSED_CUBINS := $(filter $(BUILD)/cubin/fused_%.90.cubin,$(CUBINS))
cuda-model: $(if $(NVCC),$(BUILD)/cuda_model $(FUSED_CUBINS))
	@$(if $(NVCC),:,echo 'make: no nvcc here' >&2; exit 1)
	@EMU_RECORD=1 $(BUILD)/cuda_model >$(BUILD)/cuda_model.txt
	@$(or $(PYTHON),/usr/bin/python3) scripts/cuda_model.py $(BUILD)/cuda_model.txt $(FUSED_CUBINS:.cubin=.ptxas)

layers:
	@scripts/check_layers.sh

bench: all
	@NOC=$(abspath $(BUILD))/nocturne BUILD=$(abspath $(BUILD)) scripts/bench.sh

# Other engines, from PyPI, in a folder of their own; PEERS=FOLDER takes another virtual environment.
PEERS ?= $(BUILD)/peers
peers:
	@[ -x $(PEERS)/bin/python ] || python3 -m venv $(PEERS) || { rm -rf $(PEERS); exit 1; }
	@$(PEERS)/bin/pip install -q --disable-pip-version-check numpy pyyaml nibabel torch onnx onnxruntime openvino

# The tables of BENCHMARKS.md, into the build folder. BENCH_FLAGS: --threads 1, --rounds N, --peers NAME,...
bench-peers: all peers
	@[ -n "$(NOC_REFERENCE_DIR)" ] || $(PEERS)/bin/python scripts/untrained_model.py $(BUILD)/untrained
	@$(PEERS)/bin/python scripts/bench_peers.py --nocturne $(BUILD)/nocturne --tables $(BUILD) $(BENCH_FLAGS) \
	    $(if $(NOC_REFERENCE_DIR),$(NOC_REFERENCE_DIR)/models/brats-untrained,$(BUILD)/untrained)

# nocturne evaluate against the programs whose metrics it promises; NOC_REFERENCE_DIR has more pairs than the demo.
check-peers: all
	@[ -x $(PEERS)/bin/python ] || python3 -m venv $(PEERS) || { rm -rf $(PEERS); exit 1; }
	@$(PEERS)/bin/pip install -q --disable-pip-version-check numpy nibabel scipy torch monai surface-distance
	@$(PEERS)/bin/python scripts/check_metrics.py --nocturne $(BUILD)/nocturne --tables $(BUILD) \
	    $(if $(NOC_REFERENCE_DIR),$(NOC_REFERENCE_DIR)/data/msd_hippocampus,demo/archive)/labelsTr

bench-archive: all peers
	@$(PEERS)/bin/python scripts/bench_archive.py --nocturne $(BUILD)/nocturne --tables $(BUILD) $(BENCH_FLAGS) models/hippocampus \
	    $(if $(NOC_REFERENCE_DIR),$(NOC_REFERENCE_DIR)/data/msd_hippocampus,demo/archive)

# The kernels are written in GCC's vector extensions, which clang cannot read.
TIDY := $(shell command -v clang-tidy 2>/dev/null)
lint: layers
	@$(if $(TIDY),$(TIDY) --quiet --warnings-as-errors='*' $(filter-out $(KERNELS) \
    $(if $(CUDA_INCLUDE),,$(CUDA_SOURCES) $(wildcard tests/test_cuda_*.c tests/cuda_*.c)),$(filter %.c,$(SOURCES))) -- -std=c11 -D_GNU_SOURCE -I. \
	    -DNOC_ISA_PORTABLE $(CUDA_C_FLAGS) $(VERSION_FLAGS) $(NIFTI_CFLAGS) $(HDF5_CFLAGS) $(MPI_CFLAGS) -pthread,\
	    echo 'make: no clang-tidy here (apt-get install clang-tidy): only the layers were checked')

format:
	@clang-format -i $(SOURCES) $(wildcard engine/cuda/*.cu engine/cuda/*.cuh tests/emulation/*)

# What a package's recipe sets too: DESTDIR is not a part of any path that the program knows.
PLACE = $(DESTDIR)$(PREFIX)
install: all
	@install -D -m 755 $(BUILD)/nocturne '$(PLACE)/bin/nocturne'
	@find configs models -type f -exec install -D -m 644 {} '$(PLACE)/share/nocturne/{}' ';'
	@install -d '$(PLACE)/share/doc/nocturne'
	@install -m 644 $(wildcard *.md) LICENSE '$(PLACE)/share/doc/nocturne/'
	@echo 'installed: $(PREFIX)/bin/nocturne, models and settings in $(PREFIX)/share/nocturne'

uninstall:
	rm -f '$(PLACE)/bin/nocturne'
	rm -rf '$(PLACE)/share/nocturne' '$(PLACE)/share/doc/nocturne'

clean:
	rm -rf $(BUILD)
