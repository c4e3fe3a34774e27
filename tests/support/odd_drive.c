/* A drive that plays faults: preloaded into a process, it answers calls as odd file systems do.
 *
 * G2A_FAULTS holds rules, one a line: CALL PATTERN ERRNO AFTER TIMES. The first AFTER calls that
 * match pass, the next TIMES (-1: all) fail with the number ERRNO. PATTERN is fnmatch(3)'s, of the
 * whole path. ERRNO -1 is no error but an odd answer: statvfs of all zero, statfs of a FAT, a
 * write of half the bytes; and -2 a statfs of an NFS.
 * G2A_FOLD is a directory below which all names are kept in lower case.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MOST 32
#define REAL(name) ((__typeof__(&name))real(#name))

static struct rule {
    char call[16], pattern[PATH_MAX];
    int code;
    long after, times;
    atomic_long seen;
} rules[MOST];
static int count;
static char fold[PATH_MAX];

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* What the environment says; also called in a process that was forked and has another one. */
__attribute__((constructor)) void odd_drive_load(void) {
    const char *text = getenv("G2A_FAULTS"), *below = getenv("G2A_FOLD");
    count = 0;
    fold[0] = 0;
    if (below) snprintf(fold, sizeof fold, "%s/", below);
    for (; text && *text && count < MOST; text = strchr(text, '\n') ? strchr(text, '\n') + 1 : "") {
        struct rule *r = &rules[count];
        if (sscanf(text, "%15s %4095s %d %ld %ld", r->call, r->pattern, &r->code, &r->after,
                   &r->times) == 5)
            count++;
    }
}

/* The code of the rule that a call meets; 0 for none. */
static int met(const char *call, const char *path) {
    for (int i = 0; i < count; i++) {
        struct rule *r = &rules[i];
        if (strcmp(r->call, call) || fnmatch(r->pattern, path, 0)) continue;
        long n = atomic_fetch_add(&r->seen, 1);
        if (n >= r->after && (r->times < 0 || n < r->after + r->times)) return r->code;
    }
    return 0;
}

/* Whether a call fails; errno is set then. */
static int fails(const char *call, const char *path) {
    int code = met(call, path);
    if (code > 0) errno = code;
    return code > 0;
}

static const char *of_fd(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, buffer, PATH_MAX - 1);
    buffer[n < 0 ? 0 : n] = 0;
    return buffer;
}

/* The whole path, folded where names are. */
static const char *whole(int dir, const char *path, char *buffer) {
    char base[PATH_MAX];
    if (path[0] == '/') {
        snprintf(buffer, PATH_MAX, "%s", path);
    } else {
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) base[0] = 0;
        } else {
            of_fd(dir, base);
        }
        snprintf(buffer, PATH_MAX, "%.2000s/%.2000s", base, path);
    }
    size_t n = strlen(fold);
    if (n && !strncmp(buffer, fold, n))
        for (char *c = buffer + n; *c; c++) *c = tolower((unsigned char)*c);
    return buffer;
}

static int opened(const char *name, int dir, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    whole(dir, path, full);
    if (fails("open", full)) return -1;
    if ((flags & O_CREAT) && fails("create", full)) return -1;
    if ((flags & (O_WRONLY | O_RDWR)) && fails("openw", full)) return -1;
    return ((int (*)(int, const char *, int, ...))real(name))(AT_FDCWD, full, flags, mode);
}

#define MODE                                        \
    mode_t mode = 0;                                \
    if (flags & (O_CREAT | __O_TMPFILE)) {          \
        va_list rest;                               \
        va_start(rest, flags);                      \
        mode = va_arg(rest, mode_t);                \
        va_end(rest);                               \
    }
int open(const char *path, int flags, ...) { MODE return opened("openat", AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened("openat", AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE return opened("openat", dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE return opened("openat", dir, path, flags, mode); }

/* Calls on an open file. */
#define ON_FD(type, name, call, args, values)                   \
    type name args {                                            \
        char path[PATH_MAX];                                    \
        if (count && fails(call, of_fd(fd, path))) return -1;   \
        return REAL(name) values;                               \
    }
ON_FD(int, fsync, "fsync", (int fd), (fd))
ON_FD(int, fdatasync, "fsync", (int fd), (fd))
ON_FD(int, syncfs, "syncfs", (int fd), (fd))
/* An odd one takes half of what is to be written, as any may. */
#define WRITE(name, args, values)                                     \
    ssize_t name args {                                               \
        char path[PATH_MAX];                                          \
        int code = count ? met("write", of_fd(fd, path)) : 0;         \
        if (code < 0) n = (n + 1) / 2;                                \
        if (code <= 0) return REAL(name) values;                      \
        errno = code;                                                 \
        return -1;                                                    \
    }
WRITE(write, (int fd, const void *b, size_t n), (fd, b, n))
WRITE(pwrite, (int fd, const void *b, size_t n, off_t at), (fd, b, n, at))
WRITE(pwrite64, (int fd, const void *b, size_t n, off64_t at), (fd, b, n, at))
ON_FD(ssize_t, read, "read", (int fd, void *b, size_t n), (fd, b, n))
ON_FD(ssize_t, pread, "pread", (int fd, void *b, size_t n, off_t at), (fd, b, n, at))
ON_FD(ssize_t, pread64, "pread", (int fd, void *b, size_t n, off64_t at), (fd, b, n, at))
ON_FD(ssize_t, readv, "read", (int fd, const struct iovec *v, int n), (fd, v, n))
ON_FD(int, ftruncate, "truncate", (int fd, off_t n), (fd, n))
ON_FD(int, ftruncate64, "truncate", (int fd, off64_t n), (fd, n))
ON_FD(int, flock, "flock", (int fd, int how), (fd, how))
ON_FD(int, fchmod, "chmod", (int fd, mode_t mode), (fd, mode))

int close(int fd) {
    char path[PATH_MAX];
    int code = count ? met("close", of_fd(fd, path)) : 0;
    int result = REAL(close)(fd); /* in any case */
    if (code <= 0) return result;
    errno = code;
    return -1;
}

static int controlled(const char *name, int fd, int command, void *arg) {
    char path[PATH_MAX];
    int lock = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||
               command == F_SETLK64 || command == F_SETLKW64; /* others where words have 32 bits */
    if (lock && ((struct flock *)arg)->l_type != F_UNLCK && fails("lock", of_fd(fd, path)))
        return -1;
    return ((int (*)(int, int, ...))real(name))(fd, command, arg);
}
#define CONTROL(name)                         \
    int name(int fd, int command, ...) {      \
        va_list rest;                         \
        va_start(rest, command);              \
        void *arg = va_arg(rest, void *);     \
        va_end(rest);                         \
        return controlled(#name, fd, command, arg); \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

/* Calls on a path. */
#define ON_PATH(type, name, call, args, dir, then)                  \
    type name args {                                                \
        char full[PATH_MAX];                                        \
        if (fails(call, whole(dir, path, full))) return (type)-1;   \
        return then;                                                \
    }
ON_PATH(int, mkdir, "mkdir", (const char *path, mode_t mode), AT_FDCWD, REAL(mkdir)(full, mode))
ON_PATH(int, mkdirat, "mkdir", (int dir, const char *path, mode_t mode), dir, REAL(mkdir)(full, mode))
ON_PATH(int, unlink, "unlink", (const char *path), AT_FDCWD, REAL(unlink)(full))
ON_PATH(int, rmdir, "rmdir", (const char *path), AT_FDCWD, REAL(rmdir)(full))
ON_PATH(int, access, "access", (const char *path, int how), AT_FDCWD, REAL(access)(full, how))
ON_PATH(int, faccessat, "access", (int dir, const char *path, int how, int flags), dir,
        REAL(faccessat)(AT_FDCWD, full, how, flags))
ON_PATH(int, truncate, "truncate", (const char *path, off_t n), AT_FDCWD, REAL(truncate)(full, n))
ON_PATH(int, stat, "stat", (const char *path, struct stat *s), AT_FDCWD, REAL(stat)(full, s))
ON_PATH(int, stat64, "stat", (const char *path, struct stat64 *s), AT_FDCWD, REAL(stat64)(full, s))
ON_PATH(int, lstat, "stat", (const char *path, struct stat *s), AT_FDCWD, REAL(lstat)(full, s))
ON_PATH(int, lstat64, "stat", (const char *path, struct stat64 *s), AT_FDCWD, REAL(lstat64)(full, s))

DIR *opendir(const char *path) {
    char full[PATH_MAX];
    if (fails("list", whole(AT_FDCWD, path, full))) return NULL;
    return REAL(opendir)(full);
}

int rename(const char *path, const char *to) {
    char full[PATH_MAX], target[PATH_MAX];
    whole(AT_FDCWD, path, full);
    whole(AT_FDCWD, to, target);
    if (fails("rename", target)) return -1;
    if (count && !REAL(access)(target, F_OK) && fails("replace", target)) return -1;
    return REAL(rename)(full, target);
}

#define SPACE(name, kind)                                       \
    int name(const char *path, struct kind *about) {            \
        char full[PATH_MAX];                                    \
        int code = met("statvfs", whole(AT_FDCWD, path, full)); \
        if (code > 0) return errno = code, -1;                  \
        int result = REAL(name)(full, about);                   \
        if (code < 0) memset(about, 0, sizeof *about);          \
        return result;                                          \
    }
SPACE(statvfs, statvfs)
SPACE(statvfs64, statvfs64)

#define TYPE(name, only)                                            \
    int name(const char *path, struct name *about) {                \
        char full[PATH_MAX];                                        \
        int code = met(only, whole(AT_FDCWD, path, full));          \
        if (!code) code = met("statfs", full);                      \
        if (code > 0) return errno = code, -1;                      \
        int result = REAL(name)(full, about);                       \
        if (code < 0) about->f_type = code == -2 ? 0x6969 : 0x4d44; \
        return result;                                              \
    }
TYPE(statfs, "statfs32")
TYPE(statfs64, "statfs64")
