#!/bin/sh
# Runs one test for prove: a Check program (told to speak TAP on stdout) or a program test, which speaks it by itself.
export CK_TAP_LOG_FILE_NAME=- CK_VERBOSITY=silent
export CK_DEFAULT_TIMEOUT="${CK_DEFAULT_TIMEOUT:-300}"
# The thread sanitizer loses sight of threads made after a fork.
case ",${SAN-}," in
*,thread,*) export CK_FORK=no ;;
esac
# Only whole stacks tell the leaks of Open MPI's components, which it unloads before the end, from ours.
case ",${SAN-},$1" in
*,address,*.t) export ASAN_OPTIONS="fast_unwind_on_malloc=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}" ;;
esac
exec "$@"
