/* A directory once more, through FUSE, as an odd file system would show it.
 *
 *     odd_mount SOURCE MOUNT_POINT [QUIRK[=VALUE]]...
 *
 * fold         names are kept in lower case, and found in any
 * decompose    an u with two dots is kept as two letters, and found by either, as on HFS+
 * largest=N    no file is larger than N bytes (EFBIG), as on FAT
 * noreplace    nothing is renamed over what is there (EEXIST)
 * nofsync      there is no flush, of files or directories (EINVAL)
 * nochmod      no owners, modes or times can be set (EPERM)
 * nostatfs     it does not tell its space
 * nonumbers    the inodes of all have the number 0
 * newnumbers   they have another number at each look
 * links        there are hard links, and what has two names is told with 50 bytes too many, as
 *              gocryptfs 2.3 does for a second
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const char *source;
static int fold, decompose, noreplace, nofsync, nochmod, nostatfs, nonumbers, newnumbers, links;
static off_t largest = LLONG_MAX;

#define ANSWER(call) return (call) == -1 ? -errno : 0
#define PLACE(name, path) char name[PATH_MAX]; place(name, path)

static void place(char *name, const char *path) {
    size_t at = snprintf(name, PATH_MAX, "%s", source);
    for (; *path && at < PATH_MAX - 4; path++) {
        if (decompose && !strncmp(path, "\xc3\xbc", 2)) {  // u with two dots above
            memcpy(name + at, "u\xcc\x88", 3);
            at += 3, path++;
        } else {
            name[at++] = fold ? tolower((unsigned char)*path) : *path;
        }
    }
    name[at] = 0;
}

static int odd_getattr(const char *path, struct stat *info, struct fuse_file_info *file) {
    PLACE(name, path);
    if (lstat(name, info)) return -errno;
    if (newnumbers) info->st_ino = 1000 + newnumbers++;
    if (nonumbers) info->st_ino = 0;
    if (links && S_ISREG(info->st_mode) && info->st_nlink > 1) info->st_size += 50;
    return 0;
}

static int odd_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                       struct fuse_file_info *file, enum fuse_readdir_flags flags) {
    PLACE(name, path);
    DIR *directory = opendir(name);
    if (!directory) return -errno;
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat info = {.st_ino = entry->d_ino, .st_mode = entry->d_type << 12};
        fill(buffer, entry->d_name, &info, 0, 0);
    }
    closedir(directory);
    return 0;
}

static int odd_access(const char *path, int mode) { PLACE(name, path); ANSWER(access(name, mode)); }
static int odd_mkdir(const char *path, mode_t mode) { PLACE(name, path); ANSWER(mkdir(name, mode)); }
static int odd_unlink(const char *path) { PLACE(name, path); ANSWER(unlink(name)); }
static int odd_rmdir(const char *path) { PLACE(name, path); ANSWER(rmdir(name)); }

static int odd_rename(const char *from, const char *to, unsigned int flags) {
    struct stat info;
    PLACE(old, from);
    PLACE(new, to);
    if (flags) return -EINVAL;
    if (noreplace && lstat(new, &info) == 0) return -EEXIST;
    ANSWER(rename(old, new));
}

static int odd_link(const char *from, const char *to) {
    PLACE(old, from);
    PLACE(new, to);
    if (!links) return -EPERM;
    ANSWER(link(old, new));
}

static int odd_symlink(const char *to, const char *path) { return -EPERM; }

static int odd_chmod(const char *path, mode_t mode, struct fuse_file_info *file) {
    PLACE(name, path);
    if (nochmod) return -EPERM;
    ANSWER(chmod(name, mode));
}

static int odd_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *file) {
    PLACE(name, path);
    if (nochmod) return -EPERM;
    ANSWER(lchown(name, uid, gid));
}

static int odd_utimens(const char *path, const struct timespec times[2],
                       struct fuse_file_info *file) {
    PLACE(name, path);
    if (nochmod) return -EPERM;
    ANSWER(utimensat(AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW));
}

static int odd_truncate(const char *path, off_t size, struct fuse_file_info *file) {
    PLACE(name, path);
    if (size > largest) return -EFBIG;
    ANSWER(truncate(name, size));
}

static int opened(int descriptor, struct fuse_file_info *file) {
    if (descriptor == -1) return -errno;
    file->fh = descriptor;
    return 0;
}

static int odd_open(const char *path, struct fuse_file_info *file) {
    PLACE(name, path);
    return opened(open(name, file->flags & ~O_APPEND), file);
}

static int odd_create(const char *path, mode_t mode, struct fuse_file_info *file) {
    PLACE(name, path);
    return opened(open(name, (file->flags & ~O_APPEND) | O_CREAT, mode), file);
}

static int odd_read(const char *path, char *buffer, size_t size, off_t offset,
                    struct fuse_file_info *file) {
    ssize_t count = pread(file->fh, buffer, size, offset);
    return count == -1 ? -errno : (int)count;
}

static int odd_write(const char *path, const char *buffer, size_t size, off_t offset,
                     struct fuse_file_info *file) {
    if (offset + (off_t)size > largest) return -EFBIG;
    ssize_t count = pwrite(file->fh, buffer, size, offset);
    return count == -1 ? -errno : (int)count;
}

static int odd_release(const char *path, struct fuse_file_info *file) { return close(file->fh); }

static int odd_fsync(const char *path, int data, struct fuse_file_info *file) {
    if (nofsync) return -EINVAL;
    ANSWER(fsync(file->fh));
}

static int odd_fsyncdir(const char *path, int data, struct fuse_file_info *file) {
    return nofsync ? -EINVAL : 0;
}

static int odd_statfs(const char *path, struct statvfs *told) {
    PLACE(name, path);
    if (nostatfs) {
        memset(told, 0, sizeof *told);
        return 0;
    }
    ANSWER(statvfs(name, told));
}

static void *odd_init(struct fuse_conn_info *connection, struct fuse_config *config) {
    config->use_ino = 1;
    config->attr_timeout = config->entry_timeout = config->negative_timeout = 0;
    return NULL;
}

static const struct fuse_operations operations = {
    .init = odd_init, .getattr = odd_getattr, .readdir = odd_readdir, .access = odd_access,
    .mkdir = odd_mkdir, .unlink = odd_unlink, .rmdir = odd_rmdir, .rename = odd_rename,
    .link = odd_link, .symlink = odd_symlink, .chmod = odd_chmod, .chown = odd_chown,
    .utimens = odd_utimens, .truncate = odd_truncate, .open = odd_open, .create = odd_create,
    .read = odd_read, .write = odd_write, .release = odd_release, .fsync = odd_fsync,
    .fsyncdir = odd_fsyncdir, .statfs = odd_statfs,
};

int main(int count, char **given) {
    if (count < 3) return 2;
    source = given[1];
    for (int i = 3; i < count; i++) {
        fold |= !strcmp(given[i], "fold");
        decompose |= !strcmp(given[i], "decompose");
        noreplace |= !strcmp(given[i], "noreplace");
        nofsync |= !strcmp(given[i], "nofsync");
        nochmod |= !strcmp(given[i], "nochmod");
        nostatfs |= !strcmp(given[i], "nostatfs");
        nonumbers |= !strcmp(given[i], "nonumbers");
        newnumbers |= !strcmp(given[i], "newnumbers");
        links |= !strcmp(given[i], "links");
        if (!strncmp(given[i], "largest=", 8)) largest = atoll(given[i] + 8);
    }
    char *arguments[] = {given[0], given[2], "-o", "default_permissions", NULL};
    return fuse_main(4, arguments, &operations, NULL);
}
