#!/bin/sh
# Runs one test for prove: a Check program (told to speak TAP on stdout) or a program test, which speaks it by itself.
export CK_TAP_LOG_FILE_NAME=- CK_VERBOSITY=silent
export CK_DEFAULT_TIMEOUT="${CK_DEFAULT_TIMEOUT:-300}"
# The thread sanitizer loses sight of threads made after a fork.
case ",${SAN-}," in
*,thread,*) export CK_FORK=no ;;
esac
exec "$@"
