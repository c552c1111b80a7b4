// cuda_limits LOG...: what the device compiler says of each kernel (nvcc -Xptxas -v), and how many of its
// blocks a multiprocessor then holds, by the toolkit's own calculator. Fails for a kernel with a stack or
// spills, for one that holds fewer blocks than it promises, and for one that no line of the table knows.
// Needs no device.
#include "engine/cuda/element.cuh"
#include "engine/cuda/fused_attention.h"
#include "engine/cuda/fused_conv.h"
#include "engine/cuda/fused_decoder.h"
#include "engine/cuda/fused_gemm.h"
#include "engine/cuda/fused_mixffn.h"
#include "engine/cuda/token_end.cuh"

#include <cstdio>
#include <cuda_occupancy.h>
#include <fstream>
#include <string>

namespace gemm
{
#include "engine/cuda/fused_gemm.cu"
}
namespace attention
{
#include "engine/cuda/fused_attention.cu"
}
namespace mixffn
{
#include "engine/cuda/fused_mixffn.cu"
}
namespace decoder
{
#include "engine/cuda/fused_decoder.cu"
}
namespace conv
{
#include "engine/cuda/fused_conv.cu"
}
namespace general
{
#include "engine/cuda/kernels_attention.cu"
}

// Parts of a kernel's mangled name, its block, and the blocks that fit on compute capability 8.0 and 9.0.
struct promise {
    const char *kernel, *variant;
    int threads, shared, blocks[2];
};

// Of SegFormer3D's stem: 11 or, of four planes, 19 x 19 lines of 18 chunks, and two steps of weights.
static constexpr int STEM_SHARED = 11 * 19 * 18 * 16 + 2 * conv::block<2, 1, 4>::WEIGHTS;
static constexpr int DEEP_SHARED = 19 * 19 * 18 * 16 + 2 * conv::block<4, 1, 2>::WEIGHTS;

static const promise promises[] = {
    {"gemm_kernel", "Li2ELi8E", gemm::THREADS, gemm::tile<2, 8>::shared(2, true, false), {3, 4}},
    {"gemm_kernel", "Li1ELi2E", gemm::THREADS, gemm::tile<1, 2>::shared(5, true, true), {3, 4}},
    {"gemm_pair_kernel", "Li1ELi2E", gemm::THREADS, gemm::tile<1, 2>::shared(8, true, true), {2, 4}},
    {"attention_kernel", "Li16EEv24", attention::THREADS, attention::head<16>::SHARED, {2, 2}},
    {"attention_kernel", "Li32EEv24", attention::THREADS, attention::head<32>::SHARED, {1, 2}},
    {"attention_kernel", "Li48EEv24", attention::THREADS, attention::head<48>::SHARED, {2, 2}},
    {"attention_kernel", "Li64EEv24", attention::THREADS, attention::head<64>::SHARED, {1, 2}},
    {"mixffn_kernel", "Li4ELi8ELi8E", mixffn::THREADS, mixffn::box<4, 8, 8, 32, 1, 4>::SHARED, {1, 2}},
    {"mixffn_kernel", "Li4ELi8ELi4E", mixffn::THREADS, mixffn::box<4, 8, 4, 32, 2, 4>::SHARED, {1, 2}},
    {"mixffn_kernel", "Li2ELi8ELi2E", mixffn::THREADS, mixffn::high_box::SHARED, {1, 1}},
    {"mixffn_kernel", "Li4ELi4ELi2E", mixffn::THREADS, mixffn::low_box::SHARED, {1, 1}},
    {"decoder_kernel", "", decoder::THREADS, decoder::FIXED + decoder::A, {1, 2}},
    {"stem_kernel", "Li4ELi1ELi2E", conv::THREADS, DEEP_SHARED, {1, 2}},
    {"stem_kernel", "Li2ELi1ELi4E", conv::THREADS, STEM_SHARED, {2, 2}},
    {"stem_kernel", "Li2ELi2ELi2E", conv::THREADS, STEM_SHARED, {2, 2}},
    {"conv_kernel", "Li2ELi1ELi4E", conv::THREADS, conv::block<2, 1, 4>::SHARED, {2, 2}},
    {"conv_kernel", "Li2ELi2ELi2E", conv::THREADS, conv::block<2, 2, 2>::SHARED, {2, 2}},
    {"end_kernel", "", 256, 0, {4, 4}},
    {"attention_kernel", "Li1EEv18", general::WARPS * 32, 4 * general::shared_floats(32), {6, 6}},
    {"attention_kernel", "Li2EEv18", general::WARPS * 32, 4 * general::shared_floats(64), {6, 6}},
    {"attention_kernel", "Li4EEv18", general::WARPS * 32, 4 * general::shared_floats(128), {3, 3}},
    {"attention_kernel", "Li16EEv18", general::WARPS * 32, 4 * general::shared_floats(512), {1, 1}},
    {"product_kernel", "", 256, 0, {2, 2}},
    {"tail_kernel", "", 256, 0, {2, 2}},
    {"layer_norm_kernel", "", 256, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"pointwise_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"take_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"give_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"depthwise_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"mix_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"gather_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"convert_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"cut_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
    {"peak_kernel", "", THREADS_OF_A_LINE, 0, {BLOCKS_OF_A_LINE, BLOCKS_OF_A_LINE}},
};

static int blocks_of(int major, int registers, int threads, int static_shared, int shared)
{
    cudaOccDeviceProp device = {};
    device.computeMajor = major;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = 2048;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.sharedMemPerBlock = 48 << 10;
    device.sharedMemPerMultiprocessor = (major == 8 ? 164 : 228) << 10;
    device.sharedMemPerBlockOptin = (major == 8 ? 163 : 227) << 10;
    device.reservedSharedMemPerBlock = 1024;
    device.numSms = major == 8 ? 108 : 132;
    cudaOccFuncAttributes kernel = {};
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = static_shared;
    kernel.maxDynamicSharedSizeBytes = shared;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.numBlockBarriers = 1;
    cudaOccDeviceState state = {};
    state.carveoutConfig = 100;
    cudaOccResult result = {};
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, shared))
        return -1;
    return result.activeBlocksPerMultiprocessor;
}

static const promise *promise_of(const std::string &name)
{
    for (const promise &p : promises)
        if (name.find(p.kernel) != name.npos && name.find(p.variant) != name.npos)
            return &p;
    return nullptr;
}

static int number_before(const std::string &line, const char *what)
{
    size_t end = line.find(what), from = end;
    if (end == line.npos)
        return 0;
    while (from > 0 && (isdigit(line[from - 1]) || line[from - 1] == ' '))
        from--;
    return atoi(line.c_str() + from);
}

// One kernel's line of the report; whether it keeps its promise.
static bool report(const std::string &name, int capability, int stack, int spills, const std::string &used)
{
    int registers = number_before(used, " registers"), fixed = number_before(used, " bytes smem"), blocks = 0;
    const promise *p = promise_of(name);
    if (p)
        blocks = blocks_of(capability / 10, registers, p->threads, fixed, p->shared);
    bool kept = p && stack == 0 && spills == 0 && blocks >= p->blocks[capability >= 90];
    printf("%-58s sm_%d %4d registers %2d stack %2d spilled %6d shared %2d blocks of %2d%s\n", name.c_str(),
           capability, registers, stack, spills, p ? p->shared + fixed : 0, blocks,
           p ? p->blocks[capability >= 90] : 0, kept ? "" : "  <-- not kept");
    return kept;
}

static bool report_log(const char *path)
{
    std::ifstream log(path);
    std::string line, name;
    int capability = 0, stack = 0, spills = 0, count = 0;
    bool kept = true;
    while (std::getline(log, line)) {
        size_t at = line.find("Compiling entry function '");
        if (at != line.npos) {
            capability = atoi(line.c_str() + line.find("sm_") + 3);
            name = line.substr(at + 26, line.find('\'', at + 26) - at - 26);
        }
        if (line.find("bytes stack frame") != line.npos) {
            stack = number_before(line, " bytes stack frame");
            spills = number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        }
        if (line.find("Used ") == line.npos)
            continue;
        count++;
        kept = report(name, capability, stack, spills, line) && kept;
    }
    if (count == 0)
        printf("%s: no kernel in it\n", path);
    return kept && count > 0;
}

int main(int argc, char **argv)
{
    bool kept = argc > 1;
    for (int i = 1; i < argc; i++)
        kept = report_log(argv[i]) && kept;
    return kept ? 0 : 1;
}
