/* Leaks semaphore sets at two lines, blocks at a third line until its reader, which rests at a fourth, reads, and prints
   these line numbers. With an argument it then blocks at the third line for ever.

   Prints READY, waits for a line on standard input, and prints DONE and the numbers. The test e2e/fault/lines.rs
   compiles and runs it. */
#include <errno.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <unistd.h>

#define MANY 128
#define FEW 12
#define WAITS 6

/* More than a pipe holds: each write blocks until the reader, which pauses first, reads. */
static char piece[1 << 17];

__attribute__((noinline)) static int many(int *line) {
    *line = __LINE__ + 1;
    int id = semget(IPC_PRIVATE, 1, 0600);
    if (id < 0)
        perror("semget");
    return id;
}

static inline int inner(int *line) {
    *line = __LINE__ + 1;
    int id = semget(IPC_PRIVATE, 1, 0600);
    if (id < 0)
        perror("semget");
    return id;
}

/* The compiler inlines inner() here. */
__attribute__((noinline)) static int few(int *line) {
    int id = inner(line);
    fflush(stdout);
    return id;
}

__attribute__((noinline)) static int feed(int to, int *line) {
    *line = __LINE__ + 1;
    ssize_t written = write(to, piece, sizeof piece);
    if (written < 0)
        perror("write");
    return written == sizeof piece;
}

enum { LINE_OF_REST = __LINE__ + 2 };
__attribute__((noinline)) static int rest(void) {
    if (usleep(400000) < 0)
        perror("usleep");
    return errno;
}

static int drain(int from) {
    for (int n = 0; n < WAITS; n++) {
        rest();
        for (size_t done = 0; done < sizeof piece;) {
            ssize_t got = read(from, piece, sizeof piece - done);
            if (got <= 0)
                return 1;
            done += got;
        }
    }
    return 0;
}

/* Returns the line of the write that blocked until the child read, or 0. */
static int wait_for_a_reader(void) {
    int ends[2], line = 0;
    if (pipe(ends) < 0)
        return 0;
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        _exit(drain(ends[0]));
    }
    close(ends[0]);
    for (int n = 0; n < WAITS; n++)
        if (!feed(ends[1], &line))
            return 0;
    close(ends[1]);
    return waitpid(child, NULL, 0) == child ? line : 0;
}

/* Blocks at the same line for ever: no process reads. */
static int wait_for_ever(void) {
    int ends[2], line;
    return pipe(ends) == 0 && feed(ends[1], &line);
}

int main(int count, char **words) {
    (void)words;
    int line_of_many = 0, line_of_few = 0;
    char go[8];
    printf("READY\n");
    fflush(stdout);
    if (!fgets(go, sizeof go, stdin))
        return 1;
    for (int n = 0; n < MANY; n++)
        printf("ID %d\n", many(&line_of_many));
    for (int n = 0; n < FEW; n++)
        printf("ID %d\n", few(&line_of_few));
    fflush(stdout);
    printf("DONE %d %d %d %d\n", line_of_many, line_of_few, wait_for_a_reader(), LINE_OF_REST);
    fflush(stdout);
    if (count > 1)
        return wait_for_ever();
    /* The suite reads the leaks after the end of this program. */
    return fgets(go, sizeof go, stdin) ? 0 : 1;
}
