/* Faults of a disk, for tests: preloaded into a process, it lets chosen calls of the system fail.

   Calls that write to files below a folder are counted, from `faults_arm` on, whoever makes them: Python, torch, a C++
   or Rust library. The chosen one fails; or, from a number of bytes on, all writing does, as on a full disk. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long chosen = -1, counted = 0;
static long long room = -1;
static int code = EIO, armed = 0;
static char last[PATH_MAX + 64];

/* number: of the call that is to fail, from 1; 0 for none. bytes: of the disk; -1 for as many as you like. */
void faults_arm(const char *folder, long number, int error, long long bytes) {
    snprintf(root, sizeof root, "%s", folder);
    chosen = number, code = error, room = bytes, counted = 0, armed = 1;
    last[0] = 0;
}

long faults_counted(void) { return counted; }
const char *faults_failed(void) { return last; }

static int below(const char *path) {
    size_t length = strlen(root);
    return strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* Whether this call is to fail. */
static int fails(const char *call, const char *path) {
    if (!armed || !path || !below(path)) return 0;
    if (++counted != chosen) return 0;
    snprintf(last, sizeof last, "%s %s", call, path);
    errno = code;
    return 1;
}

static int fails_at(const char *call, int descriptor) {
    char path[PATH_MAX];
    int before = errno;
    if (!armed || !path_of(descriptor, path)) { errno = before; return 0; }
    errno = before;
    return fails(call, path);
}

/* How many of so many bytes there is room for; -1 if there is none left. */
static ssize_t fitting(int descriptor, size_t count) {
    char path[PATH_MAX];
    if (!armed || room < 0 || !path_of(descriptor, path) || !below(path)) return (ssize_t)count;
    if (room == 0 && count > 0) {
        snprintf(last, sizeof last, "full %s", path);
        errno = ENOSPC;
        return -1;
    }
    ssize_t fits = (long long)count < room ? (ssize_t)count : (ssize_t)room;
    room -= fits;
    return fits;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (fails_at("write", fd)) return -1;
    ssize_t fits = fitting(fd, count);
    return fits < 0 ? -1 : real(fd, data, (size_t)fits);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (fails_at("pwrite", fd)) return -1;
    ssize_t fits = fitting(fd, count);
    return fits < 0 ? -1 : real(fd, data, (size_t)fits, at);
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    if (fails_at("pwrite", fd)) return -1;
    ssize_t fits = fitting(fd, count);
    return fits < 0 ? -1 : real(fd, data, (size_t)fits, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (fails_at("writev", fd)) return -1;
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    ssize_t fits = fitting(fd, bytes);
    if (fits < 0) return -1;
    if ((size_t)fits == bytes) return real(fd, parts, count);
    struct iovec first = {parts[0].iov_base, parts[0].iov_len < (size_t)fits ? parts[0].iov_len : (size_t)fits};
    return real(fd, &first, 1);
}

ssize_t sendfile(int to, int from, off_t *at, size_t count) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    if (fails_at("sendfile", to)) return -1;
    struct stat source;
    if (count > 0 && fstat(from, &source) == 0 && (long long)count > (long long)source.st_size) count = source.st_size;
    ssize_t fits = fitting(to, count);
    return fits < 0 ? -1 : real(to, from, at, (size_t)fits);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t count) { return sendfile(to, from, (off_t *)at, count); }

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t count, unsigned flags) {
    (void)from, (void)in, (void)to, (void)out, (void)count, (void)flags;
    errno = ENOSYS; /* the caller then copies in another way, which is counted */
    return -1;
}

#define ONE_DESCRIPTOR(name) \
    int name(int fd) { REAL(int, name, int); return fails_at(#name, fd) ? -1 : real(fd); }
ONE_DESCRIPTOR(fsync)
ONE_DESCRIPTOR(fdatasync)

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return fails("rename", to) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    return fails("rename", to) ? -1 : real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    return fails("exchange", to) ? -1 : real(a, from, b, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    return fails("mkdir", path) ? -1 : real(path, mode);
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return (flags & O_CREAT) && fails("open", path) ? -1 : real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        return (flags & O_CREAT) && fails("open", path) ? -1 : real(at, path, flags, mode); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)
