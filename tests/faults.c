// A disk that fails on request, put before libc by LD_PRELOAD: tests/faults.py speaks to it.
//
// Calls on files below one folder are counted by kind. From the nth of a kind on, or at the nth
// alone, they fail; or reads and writes move fewer bytes than they were asked for, as they may. A
// negative error is a signal that the process gets in place of the call; an error of 0 is a lie: all
// seems well, and one bit is another. Of files that were open for writing, closing counts as well.
// Nothing is ever flushed, since no test here cuts the power. Calls that look for other machines
// are counted, too. A fault of the kind `moment` comes after so many microseconds. Processes that
// are forked off count with the first, so whichever makes the nth call is hit.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

enum { kRead, kWrite, kFlush, kRename, kConnect, kClose, kMoment, kKinds };

static char folder[PATH_MAX];
static atomic_long before[kKinds], *counts = before;
static int kind_of_fault = -1, error_of_fault, for_ever, is_short;
static long nth;
static _Thread_local int lies;  // in this call

static void end(int number) { kill(getpid(), number ? SIGKILL : 0); }

void faults_begin(const char* below, int kind, long at, int error, int stays, int shorter) {
  snprintf(folder, sizeof folder, "%s/", below);
  counts = mmap(NULL, sizeof before, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (counts == MAP_FAILED) abort();
  kind_of_fault = kind, nth = at, error_of_fault = error, for_ever = stays, is_short = shorter;
  if (kind != kMoment) return;
  const struct itimerval after = {.it_value = {at / 1000000, at % 1000000}};
  signal(SIGALRM, end);
  setitimer(ITIMER_REAL, &after, NULL);
}

long faults_count(int kind) { return counts[kind]; }

static int is_below(const char* path) {
  char whole[PATH_MAX];
  if (!folder[0]) return 0;
  if (path[0] == '/') return !strncmp(path, folder, strlen(folder));
  return realpath(".", whole) && !strncmp(strcat(whole, "/"), folder, strlen(folder));
}

static int is_ours(int file) {
  char link[32], path[PATH_MAX];
  if (!folder[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path) && path[0] == '/';
}

// Whether this call, one more of its kind, is to fail.
static int fails(int kind) {
  const long number = ++counts[kind];
  lies = 0;
  if (kind != kind_of_fault || (for_ever ? number < nth : number != nth)) return 0;
  if (error_of_fault < 0) kill(getpid(), -error_of_fault);
  lies = !error_of_fault;
  errno = error_of_fault;
  return !lies;
}

// One bit of what was read is another, if this call lies.
static ssize_t told(void* to, ssize_t size) {
  if (lies && size > 0) ((unsigned char*)to)[size / 2] ^= 1;
  return size;
}

// What is to be written in place of this; it lasts until the next call.
static const void* said(const void* from, size_t size) {
  static _Thread_local void* copy;
  if (!lies || !size) return from;
  copy = realloc(copy, size);
  told(memcpy(copy, from, size), size);
  return copy;
}

static size_t shorter(size_t size) { return is_short && size > 1 ? size / 2 : size; }

#define REAL(type, name, ...)                                  \
  static type (*real)(__VA_ARGS__);                            \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t read(int file, void* to, size_t size) {
  REAL(ssize_t, "read", int, void*, size_t);
  if (!is_ours(file)) return real(file, to, size);
  return fails(kRead) ? -1 : told(to, real(file, to, shorter(size)));
}

ssize_t write(int file, const void* from, size_t size) {
  REAL(ssize_t, "write", int, const void*, size_t);
  if (!is_ours(file)) return real(file, from, size);
  return fails(kWrite) ? -1 : real(file, said(from, shorter(size)), shorter(size));
}

ssize_t pread64(int file, void* to, size_t size, off64_t at) {
  REAL(ssize_t, "pread64", int, void*, size_t, off64_t);
  if (!is_ours(file)) return real(file, to, size, at);
  return fails(kRead) ? -1 : told(to, real(file, to, shorter(size), at));
}

ssize_t pread(int file, void* to, size_t size, off_t at) { return pread64(file, to, size, at); }

ssize_t pwrite64(int file, const void* from, size_t size, off64_t at) {
  REAL(ssize_t, "pwrite64", int, const void*, size_t, off64_t);
  if (!is_ours(file)) return real(file, from, size, at);
  return fails(kWrite) ? -1 : real(file, said(from, shorter(size)), shorter(size), at);
}

ssize_t pwrite(int file, const void* from, size_t size, off_t at) { return pwrite64(file, from, size, at); }

ssize_t preadv64(int file, const struct iovec* to, int count, off64_t at) {
  REAL(ssize_t, "preadv64", int, const struct iovec*, int, off64_t);
  if (!is_ours(file)) return real(file, to, count, at);
  if (fails(kRead)) return -1;
  struct iovec first = {to[0].iov_base, shorter(to[0].iov_len)};
  return is_short ? real(file, &first, 1, at) : real(file, to, count, at);
}

ssize_t preadv(int file, const struct iovec* to, int count, off_t at) { return preadv64(file, to, count, at); }

ssize_t writev(int file, const struct iovec* from, int count) {
  REAL(ssize_t, "writev", int, const struct iovec*, int);
  if (!is_ours(file)) return real(file, from, count);
  return fails(kWrite) ? -1 : real(file, from, is_short ? 1 : count);
}

ssize_t sendfile64(int to, int from, off64_t* at, size_t size) {
  REAL(ssize_t, "sendfile64", int, int, off64_t*, size_t);
  if (!is_ours(to)) return real(to, from, at, size);
  return fails(kWrite) ? -1 : real(to, from, at, shorter(size));
}

ssize_t sendfile(int to, int from, off_t* at, size_t size) { return sendfile64(to, from, at, size); }

int fsync(int file) { return is_ours(file) && fails(kFlush) ? -1 : 0; }

int fdatasync(int file) { return fsync(file); }

int close(int file) {
  REAL(int, "close", int);
  const int mode = folder[0] ? fcntl(file, F_GETFL) & O_ACCMODE : O_RDONLY;
  const int is_written = (mode == O_WRONLY || mode == O_RDWR) && is_ours(file);
  const int closed = real(file);
  return is_written && fails(kClose) ? -1 : closed;
}

int rename(const char* from, const char* to) {
  REAL(int, "rename", const char*, const char*);
  return is_below(to) && fails(kRename) ? -1 : real(from, to);
}

int connect(int socket, const struct sockaddr* to, socklen_t length) {
  REAL(int, "connect", int, const struct sockaddr*, socklen_t);
  const struct sockaddr_in* four = (const void*)to;
  const struct sockaddr_in6* six = (const void*)to;
  const int is_far = (to->sa_family == AF_INET && ntohl(four->sin_addr.s_addr) >> 24 != 127) ||
                     (to->sa_family == AF_INET6 && !IN6_IS_ADDR_LOOPBACK(&six->sin6_addr));
  return is_far && fails(kConnect) ? -1 : real(socket, to, length);
}

int getaddrinfo(const char* name, const char* service, const struct addrinfo* hints, struct addrinfo** found) {
  REAL(int, "getaddrinfo", const char*, const char*, const struct addrinfo*, struct addrinfo**);
  const int is_far = name && strcmp(name, "localhost") && strncmp(name, "127.", 4) && strcmp(name, "::1");
  return is_far && fails(kConnect) ? EAI_FAIL : real(name, service, hints, found);
}
