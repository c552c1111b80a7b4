/* A system that refuses the AMX tiles (arch_prctl's ARCH_REQ_XCOMP_PERM).
 *
 *   prog_tiles count           opens devices again and again, by several threads; says how often the system
 * was asked prog_tiles COMMAND...      runs a command that is refused */
#include "engine/device.h"

#include <stdio.h>
#if defined(__x86_64__)
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { REQUEST_PERMISSION = 0x1023, THREADS = 4, OPENS = 25 };

/* For this process and those that it becomes. */
static int refuse_tiles(unsigned action)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, REQUEST_PERMISSION, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static atomic_int asked;

static void answer(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    atomic_fetch_add(&asked, 1);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = -EPERM;
}

/* NULL when every device was what a refusal leaves. */
static void *open_devices(void *argument)
{
    static const noc_precision precisions[] = {NOC_PRECISION_BF16, NOC_PRECISION_AUTO, NOC_PRECISION_F32};

    for (int i = 0; i < OPENS; i++) {
        const noc_device_options options = {.threads = 1, .precision = precisions[i % 3]};
        noc_device *device = NULL;
        noc_device_info info;
        if (noc_cpu_ops.precision(&options) != NOC_PRECISION_F32 ||
            noc_cpu_ops.open(&options, &device, NULL) != NOC_OK)
            return argument;
        noc_cpu_ops.describe(device, &info);
        noc_cpu_ops.close(device);
        if (strcmp(info.precision, "f32") != 0)
            return argument;
    }
    return NULL;
}

static int count(void)
{
    const struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO};
    pthread_t threads[THREADS];
    int wrong = 0;

    sigaction(SIGSYS, &action, NULL);
    if (refuse_tiles(SECCOMP_RET_TRAP) != 0) {
        perror("seccomp");
        return 1;
    }
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, open_devices, &asked) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        wrong += result != NULL;
    }
    printf("asked %d times, %d threads had another device\n", atomic_load(&asked), wrong);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "count") == 0)
        return count();
    if (argc < 2 || refuse_tiles(SECCOMP_RET_ERRNO | EPERM) != 0) {
        perror("seccomp");
        return 1;
    }
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 1;
}
#else
int main(void)
{
    puts("there are no tiles to refuse");
    return 1;
}
#endif
