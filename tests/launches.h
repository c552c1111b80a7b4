/* How many kernels the emulated GPU was asked to run so far, of those whose parameter is a struct of that
 * name; "": of all. Weak, as a real GPU has none. With EMU_RUN=0 in the environment they are counted only. */
#ifndef NOC_TESTS_LAUNCHES_H
#define NOC_TESTS_LAUNCHES_H

int emu_launches(const char *parameter) __attribute__((weak));

#endif
