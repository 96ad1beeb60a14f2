/* Leaks semaphore sets from two lines, when told to, and says which lines these are. No incident: see lines.rs in the suite. */
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <unistd.h>

#define MANY 128
#define FEW 12

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

/* Has the other one inlined. */
__attribute__((noinline)) static int few(int *line) {
    int id = inner(line);
    fflush(stdout);
    return id;
}

int main(void) {
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
    printf("DONE %d %d\n", line_of_many, line_of_few);
    fflush(stdout);
    /* The suite looks at what is left when this has ended. */
    return fgets(go, sizeof go, stdin) ? 0 : 1;
}
