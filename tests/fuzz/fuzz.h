/* What fuzz entries (tests/fuzz/NAME.c) share. An entry defines LLVMFuzzerTestOneInput and aborts where
 * something that must hold does not. Built by clang it is driven by libFuzzer (make fuzz); built as any other
 * test program it replays the files and folders that it is given (tests/fuzz.t). */
#ifndef NOC_TESTS_FUZZ_H
#define NOC_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* May return -1: the input is not worth keeping. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process with a sentence unless the claim holds. */
#define MUST(claim) ((claim) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #claim))
_Noreturn void fuzz_fail(const char *file, int line, const char *claim);

/* The path of a file with that name and content, in a folder of this process that goes away at its end. Valid
 * until the next call but one. */
const char *fuzz_file(const char *name, const void *data, size_t size);

#endif
