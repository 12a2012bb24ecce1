/* The guest's end of the example: a vsock server for the host to drive.
 *
 *   1000  echoes until the end of the stream
 *   1001  counts what arrives until the end of the stream, then answers with the count (8 bytes)
 *   1002  reads a count (8 bytes), answers with that many bytes
 *   1003  reads a port (4 bytes), connects to it on the host, echoes there
 *   1004  powers off
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

static char buffer[256 << 10];

static void all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t done = write(fd, bytes, count);
        if (done <= 0) { perror("write"); exit(1); }
        bytes += done;
        count -= done;
    }
}

static void exact(int fd, char *bytes, size_t count) {
    while (count > 0) {
        ssize_t done = read(fd, bytes, count);
        if (done <= 0) { perror("read"); exit(1); }
        bytes += done;
        count -= done;
    }
}

static void echo(int fd) {
    ssize_t count;
    while ((count = read(fd, buffer, sizeof buffer)) > 0) all(fd, buffer, count);
}

static void serve(int fd, int port) {
    uint64_t total = 0;
    ssize_t count;
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST};
    switch (port) {
    case 1000: echo(fd); break;
    case 1001:
        while ((count = read(fd, buffer, sizeof buffer)) > 0) total += count;
        all(fd, (char *)&total, sizeof total);
        break;
    case 1002:
        exact(fd, (char *)&total, sizeof total);
        for (; total > 0; total -= count) {
            count = total < sizeof buffer ? total : sizeof buffer;
            all(fd, buffer, count);
        }
        break;
    case 1003:
        exact(fd, (char *)&host.svm_port, sizeof host.svm_port);
        int there = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (connect(there, (struct sockaddr *)&host, sizeof host) != 0) { perror("connect"); exit(1); }
        echo(there);
        break;
    case 1004:
        sync();
        reboot(RB_AUTOBOOT);
    }
}

int main(void) {
    signal(SIGCHLD, SIG_IGN);
    for (int port = 1000; port <= 1004; port++) {
        struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
        int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 128) != 0) {
            perror("listen");
            return 1;
        }
        if (fork() == 0) {
            for (;;) {
                int fd = accept(listener, NULL, NULL);
                if (fd >= 0 && fork() == 0) { serve(fd, port); exit(0); }
                close(fd);
            }
        }
    }
    puts("READY");
    fflush(stdout);
    pause();
}
