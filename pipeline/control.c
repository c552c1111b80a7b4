/* The socket between supervisor and rank 0. Only a peer of the same user is accepted. */
#include "pipeline/control.h"

#include "engine/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINE = 4096, SAY_WAIT_MS = 200 };

struct noc_control {
    int listener, peer; /* -1: none */
    bool is_cut;
    pid_t peer_process; /* a supervisor's peer */
    char name[64];
    char in[LINE + 1];
    size_t have, used; /* bytes in `in`; those of the line given out last */
};

static socklen_t address_of(const char *name, struct sockaddr_un *address)
{
    size_t length = strlen(name);
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + 1, name, length); /* the leading 0 makes it abstract: no file to clean up */
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static noc_control *control_create(noc_error *err)
{
    noc_control *c = calloc(1, sizeof *c);
    if (!c)
        noc_fail(err, NOC_ENOMEMORY, "no memory for the control line");
    else
        c->listener = c->peer = -1;
    return c;
}

noc_status noc_control_listen(noc_control **control, noc_error *err)
{
    struct sockaddr_un address;
    noc_control *c = control_create(err);
    if (!c)
        return NOC_ENOMEMORY;
    snprintf(c->name, sizeof c->name, "nocturne-%ld-%llx", (long)getpid(),
             (unsigned long long)noc_clock_unix_ns());
    socklen_t size = address_of(c->name, &address);
    c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listener < 0 || bind(c->listener, (struct sockaddr *)&address, size) != 0 ||
        listen(c->listener, 4) != 0) {
        noc_status status =
            noc_fail(err, NOC_EUNAVAILABLE, "cannot open the control line: %s", strerror(errno));
        noc_control_close(c);
        return status;
    }
    *control = c;
    return NOC_OK;
}

const char *noc_control_name(const noc_control *control)
{
    return control->name;
}

noc_status noc_control_connect(const char *name, noc_control **control, noc_error *err)
{
    struct sockaddr_un address;
    noc_control *c = control_create(err);
    if (!c)
        return NOC_ENOMEMORY;
    if (strlen(name) >= sizeof c->name) {
        noc_control_close(c);
        return noc_fail(err, NOC_EUNAVAILABLE, "the control line's name is too long");
    }
    socklen_t size = address_of(name, &address);
    c->peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->peer < 0 || connect(c->peer, (struct sockaddr *)&address, size) != 0) {
        noc_status status =
            noc_fail(err, NOC_EUNAVAILABLE, "no supervisor at the control line: %s", strerror(errno));
        noc_control_close(c);
        return status;
    }
    fcntl(c->peer, F_SETFL, O_NONBLOCK);
    *control = c;
    return NOC_OK;
}

void noc_control_close(noc_control *control)
{
    if (!control)
        return;
    if (control->peer >= 0)
        close(control->peer);
    if (control->listener >= 0)
        close(control->listener);
    free(control);
}

void noc_control_reset(noc_control *control)
{
    if (control->peer >= 0)
        close(control->peer);
    control->peer = -1;
    control->is_cut = false;
    control->have = control->used = 0;
}

pid_t noc_control_peer(const noc_control *control)
{
    return control->peer_process;
}

bool noc_control_is_connected(const noc_control *control)
{
    return control->peer >= 0 && !control->is_cut;
}

bool noc_control_is_cut(const noc_control *control)
{
    return control->is_cut;
}

void noc_control_say(noc_control *control, const char *format, ...)
{
    char line[LINE];
    va_list arguments;
    if (!control || !noc_control_is_connected(control))
        return;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (size < 0)
        return;
    if (size > LINE - 2)
        size = LINE - 2;
    line[size++] = '\n';
    for (int sent = 0; sent < size;) {
        ssize_t n = send(control->peer, line + sent, (size_t)(size - sent), MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            struct pollfd wait = {.fd = control->peer, .events = POLLOUT};
            if (poll(&wait, 1, SAY_WAIT_MS) != 0)
                continue;
            control->is_cut = sent > 0; /* half a line cannot be taken back */
            return;                     /* a peer that does not read (stopped) must not stop us */
        }
        if (n < 0) {
            control->is_cut = true;
            return;
        }
        sent += (int)n;
    }
}

static void accept_peer(noc_control *control)
{
    struct ucred user;
    socklen_t size = sizeof user;
    int peer = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer < 0)
        return;
    if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &user, &size) != 0 || user.uid != geteuid()) {
        close(peer);
        return;
    }
    control->peer = peer;
    control->peer_process = user.pid;
}

const char *noc_control_hear(noc_control *control)
{
    if (control->peer < 0 && control->listener >= 0)
        accept_peer(control);
    if (control->peer < 0)
        return NULL;
    if (control->used > 0) {
        memmove(control->in, control->in + control->used, control->have - control->used);
        control->have -= control->used;
        control->used = 0;
    }
    ssize_t n =
        control->is_cut ? 0 : recv(control->peer, control->in + control->have, LINE - control->have, 0);
    if (n > 0)
        control->have += (size_t)n;
    else if (n == 0 && LINE > control->have)
        control->is_cut = true;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        control->is_cut = true;
    char *end = memchr(control->in, '\n', control->have);
    if (!end)
        return NULL;
    *end = '\0';
    control->used = (size_t)(end - control->in) + 1;
    return control->in;
}
