/* System calls that change files below one folder: counted, written down, and stopped at. To be loaded with LD_PRELOAD.

   torture_arm() starts it in a process. Every call that changes something below the folder gets the next number; at number
   `stop` the process is ended by SIGKILL, before the call, or within a write, half of which is done (`half`). What was done is
   written to `log`, so that a folder can be put together as a power cut might have left it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char watched[4096];
static size_t watched_length;
static long stop_at, counted;
static int half, log_file = -1;
static pthread_mutex_t turn = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int below(const char *path) {
    return watched_length && strncmp(path, watched, watched_length) == 0 && path[watched_length] == '/';
}

/* The path of a descriptor; "" where it is none that counts. */
static const char *path_of(int file, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = watched_length ? syscall(SYS_readlinkat, AT_FDCWD, link, out, 4095) : -1;
    out[length < 0 ? 0 : length] = 0;
    return below(out) ? out : "";
}

static const char *path_at(int folder, const char *path, char *out) {
    if (path[0] == '/') return snprintf(out, 8192, "%s", path), out;
    char base[4096] = "";
    if (folder == AT_FDCWD) { if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0; }
    else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, base, 4095);
        base[length < 0 ? 0 : length] = 0;
    }
    return snprintf(out, 8192, "%s/%s", base, path), out;
}

static void put(const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        ssize_t done = syscall(SYS_write, log_file, at, size);
        if (done <= 0) _exit(9);
        at += done, size -= done;
    }
}

static void note(char kind, const char *path, const char *other, int64_t offset, const void *data, int64_t size) {
    if (log_file < 0) return;
    struct { int64_t kind, path, other, offset, size; } head =
        {kind, (int64_t)strlen(path), (int64_t)strlen(other), offset, size};
    put(&head, sizeof head);
    put(path, head.path);
    put(other, head.other);
    put(data, size);
}

/* 1 where this is the call to stop within; a call to stop before never returns. */
static int reached(int is_write) {
    if (++counted != stop_at) return 0;
    if (is_write && half) return 1;
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

void torture_arm(const char *folder, long stop, int within, int log) {
    snprintf(watched, sizeof watched, "%s", folder);
    stop_at = stop, half = within, log_file = log, counted = 0;
    watched_length = strlen(watched);
}
long torture_count(void) { return counted; }
void torture_mark(long number) { pthread_mutex_lock(&turn); note('A', "", "", number, "", 0); pthread_mutex_unlock(&turn); }

static ssize_t written(int file, const void *data, size_t size, off64_t offset, int at_place) {
    char path[4096];
    if (!*path_of(file, path))
        return at_place ? syscall(SYS_pwrite64, file, data, size, offset) : syscall(SYS_write, file, data, size);
    pthread_mutex_lock(&turn);
    int stopped = reached(1);
    size_t much = stopped ? size / 2 : size;
    if (!at_place) offset = fcntl(file, F_GETFL) & O_APPEND ? lseek64(file, 0, SEEK_END) : lseek64(file, 0, SEEK_CUR);
    ssize_t done = at_place ? syscall(SYS_pwrite64, file, data, much, offset) : syscall(SYS_write, file, data, much);
    if (done > 0) note('W', path, "", offset, data, done);
    if (stopped) { kill(getpid(), SIGKILL); for (;;) pause(); }
    pthread_mutex_unlock(&turn);
    return done;
}
ssize_t write(int file, const void *data, size_t size) { return written(file, data, size, 0, 0); }
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return written(file, data, size, offset, 1); }
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) { return written(file, data, size, offset, 1); }

static int forced(int file, int number) {
    char path[4096];
    if (!*path_of(file, path)) return syscall(number, file);
    pthread_mutex_lock(&turn);
    reached(0);
    struct stat found;
    char *all = NULL;
    int64_t size = 0;
    if (log_file >= 0 && fstat(file, &found) == 0 && S_ISREG(found.st_mode)) {  /* what is on the disk from now on */
        int again = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
        all = malloc(found.st_size + 1);
        while (again >= 0 && size < found.st_size) {
            ssize_t got = syscall(SYS_read, again, all + size, found.st_size - size);
            if (got <= 0) break;
            size += got;
        }
        if (again >= 0) syscall(SYS_close, again);
        note('S', path, "", 0, all, size);
    } else note('D', path, "", 0, "", 0);
    free(all);
    int done = syscall(number, file);
    pthread_mutex_unlock(&turn);
    return done;
}
int fsync(int file) { return forced(file, SYS_fsync); }
int fdatasync(int file) { return forced(file, SYS_fdatasync); }

static int cut(int file, off64_t size) {
    char path[4096];
    if (!*path_of(file, path)) return syscall(SYS_ftruncate, file, size);
    pthread_mutex_lock(&turn);
    reached(0);
    int done = syscall(SYS_ftruncate, file, size);
    if (done == 0) note('T', path, "", size, "", 0);
    pthread_mutex_unlock(&turn);
    return done;
}
int ftruncate(int file, off_t size) { return cut(file, size); }
int ftruncate64(int file, off64_t size) { return cut(file, size); }

static int changed(char kind, int folder, const char *path, int other_folder, const char *other, int number, int flags) {
    char first[8192] = "", second[8192] = "";
    path_at(folder, path, first);
    if (other) path_at(other_folder, other, second);
    int counts = below(first) || below(second);
    if (counts) { pthread_mutex_lock(&turn); reached(0); }
    int done = number == SYS_renameat ? syscall(number, folder, path, other_folder, other) : syscall(number, folder, path, flags);
    if (counts) { if (done == 0) note(kind, first, second, 0, "", 0); pthread_mutex_unlock(&turn); }
    return done;
}
int rename(const char *a, const char *b) { return changed('R', AT_FDCWD, a, AT_FDCWD, b, SYS_renameat, 0); }
int renameat(int i, const char *a, int j, const char *b) { return changed('R', i, a, j, b, SYS_renameat, 0); }
int unlink(const char *a) { return changed('U', AT_FDCWD, a, 0, NULL, SYS_unlinkat, 0); }
int unlinkat(int i, const char *a, int flags) { return changed('U', i, a, 0, NULL, SYS_unlinkat, flags); }
int rmdir(const char *a) { return changed('U', AT_FDCWD, a, 0, NULL, SYS_unlinkat, AT_REMOVEDIR); }
int mkdir(const char *a, mode_t mode) { return changed('M', AT_FDCWD, a, 0, NULL, SYS_mkdirat, mode); }

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char whole[8192];
    if (!watched_length || !(flags & (O_CREAT | O_TRUNC))) return syscall(SYS_openat, folder, path, flags, mode);
    path_at(folder, path, whole);
    if (!below(whole)) return syscall(SYS_openat, folder, path, flags, mode);
    pthread_mutex_lock(&turn);
    struct stat found;
    int there = stat(whole, &found) == 0;
    int changes = !there || (flags & O_TRUNC && found.st_size > 0);
    if (changes) reached(0);
    int file = syscall(SYS_openat, folder, path, flags, mode);
    if (file >= 0 && changes) note(there ? 'T' : 'C', whole, "", 0, "", 0);
    pthread_mutex_unlock(&turn);
    return file;
}
#define OPENS(folder) \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more); \
    return opened(folder, path, flags, mode)
int open(const char *path, int flags, ...) { OPENS(AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPENS(AT_FDCWD); }
int openat(int folder, const char *path, int flags, ...) { OPENS(folder); }
int openat64(int folder, const char *path, int flags, ...) { OPENS(folder); }

/* Streams write from within the C library, unseen; their opening and their closing are seen. */
static FILE *stream(const char *path, const char *how, const char *name) {
    FILE *(*real)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, name);
    char whole[8192];
    if (!watched_length || how[0] == 'r' || !below(path_at(AT_FDCWD, path, whole))) return real(path, how);
    pthread_mutex_lock(&turn);
    reached(0);
    FILE *file = real(path, how);
    if (file) note('C', whole, "", 0, "", 0);
    pthread_mutex_unlock(&turn);
    return file;
}
FILE *fopen(const char *path, const char *how) { return stream(path, how, "fopen"); }
FILE *fopen64(const char *path, const char *how) { return stream(path, how, "fopen64"); }
int fclose(FILE *file) {
    REAL(int, "fclose", FILE *);
    char path[4096];
    if (watched_length && fileno(file) >= 0 && (fcntl(fileno(file), F_GETFL) & O_ACCMODE) != O_RDONLY && *path_of(fileno(file), path)) {
        pthread_mutex_lock(&turn);
        reached(0);
        pthread_mutex_unlock(&turn);
    }
    return real(file);
}
