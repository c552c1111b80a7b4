#!/bin/sh
# cuda_mode.sh MODE COMMAND...: a test of the CUDA kernels on the emulated GPU in one of four modes, as no single one finds
# every fault. `address` and `thread` are for what was built with those sanitizers.
#
#   late      lanes in order, asynchronous copies as late as they may land      address   as late, with addresses and
#   early     lanes reversed, copies as early as they may land                            undefined behaviour checked
#   thread    copies early, races between the threads of a block
mode=$1
shift
# Sanitizers make a test several times slower: cases that run the same kernels once more are left out.
case $mode in address | thread) export CK_EXCLUDE_TAGS=again ;; esac
case $mode in
early) export EMU_ORDER=1 EMU_ASYNC=early ;;
thread)
    # The race detector loses sight of threads made after a fork, and of some where addresses are laid out at random.
    export CK_FORK=no EMU_ASYNC=early TSAN_OPTIONS=halt_on_error=1
    ! setarch -R true 2>/dev/null || exec setarch -R "$@"
    ;;
esac
exec "$@"
