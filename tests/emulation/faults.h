/* Failures of the emulated runtime, for tests in C. */
#ifndef EMU_FAULTS_H
#define EMU_FAULTS_H

#ifdef __cplusplus
extern "C" {
#endif

/* As if EMU_FAIL had been `plan` from the start (NULL: nothing fails), with calls counted anew. Not while
 * another thread is in the runtime. */
void emu_fail(const char *plan);
/* Calls that have failed since as planned. */
int emu_failures(void);

#ifdef __cplusplus
}
#endif
#endif
