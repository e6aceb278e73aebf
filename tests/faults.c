/* Fails or kills at the n-th write, rename, unlink or fsync below a folder, counted over all processes.

   FAULT_UNDER    the folder
   FAULT_COUNTER  a file of eight bytes, the count so far
   FAULT_AT       n, from 1; 0 only counts
   FAULT_KIND     kill: the whole process group dies; EIO: this call fails; ENOSPC: this and all later writes fail
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static int64_t *counter(void) {
    static int64_t *shared;
    if (!shared) {
        int fd = open(getenv("FAULT_COUNTER"), O_RDWR | O_CLOEXEC);
        if (fd < 0) return NULL;
        shared = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (shared == MAP_FAILED) return shared = NULL;
    }
    return shared;
}

/* Whether this call must fail; does not return where the group dies. */
static int fault(const char *path, int writes) {
    const char *under = getenv("FAULT_UNDER"), *kind = getenv("FAULT_KIND");
    if (!under || !path || strncmp(path, under, strlen(under)) != 0) return 0;
    int64_t *count = counter();
    if (!count) return 0;
    int64_t now = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST), at = atoll(getenv("FAULT_AT"));
    if (!at || now < at) return 0;
    if (now == at && !strcmp(kind, "kill")) {
        kill(0, SIGKILL);
        for (;;) pause();
    }
    if (now == at && !strcmp(kind, "EIO")) return errno = EIO, 1;
    if (!strcmp(kind, "ENOSPC") && writes) return errno = ENOSPC, 1;
    return 0;
}

static const char *named(int fd, char *name, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, size - 1);
    if (length < 0) return NULL;
    name[length] = 0;
    return name;
}

#define BY_FD(result, call, parameters, arguments, writes)                         \
    result call parameters {                                                       \
        static result(*next) parameters;                                           \
        char name[4096];                                                           \
        if (!next) next = (result(*) parameters)dlsym(RTLD_NEXT, #call);           \
        if (fault(named(fd, name, sizeof name), writes)) return -1;                \
        return next arguments;                                                     \
    }

BY_FD(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size), 1)
BY_FD(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), 1)
BY_FD(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at), 1)
BY_FD(int, fsync, (int fd), (fd), 0)
BY_FD(int, fdatasync, (int fd), (fd), 0)

int rename(const char *from, const char *to) {
    static int (*next)(const char *, const char *);
    if (!next) next = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    return fault(to, 0) ? -1 : next(from, to);
}

int unlink(const char *path) {
    static int (*next)(const char *);
    if (!next) next = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    return fault(path, 0) ? -1 : next(path);
}
