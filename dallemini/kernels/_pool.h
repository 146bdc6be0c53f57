/* A few threads that share the chunks of one piece of work.

   OpenMP splits work evenly beforehand, and its threads spin until the last of them is done: where
   something else wants the processor, each product waits for a thread that does not run. Here a
   thread has its part as well, the same part of the same weights at every step, so that caches
   keep it; but a part is small chunks, and who is done with his own takes those of others. A thread
   that does not run merely holds up the chunk it has begun. Waiting is spinning for the moment in
   which the next product of a drawing comes, and sleeping from then on. After a long wait for
   another thread the caller works alone for twice as long, and twice that where it happens again
   at once: on a busy machine one thread is faster than two of which one does not run.

   There is one pool in a process, made when it is first used and grown as needed. A second caller
   meanwhile works alone. A child after fork() makes a pool of its own. */

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* Does one chunk. `thread` is 0 for the caller; no two work at once under the same number. */
typedef void (*Work)(void *context, long chunk, long thread);

/* Nanoseconds: how long a thread spins before it sleeps, and from where on a wait was long. */
enum { SPIN = 100000, PATIENCE = 20000, LONG_WAIT = 150000, MOST_REST = 100000000 };
enum { MOST_WORKERS = 255, CACHE_LINE = 64 };

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define ALONE_ON_A_LINE _Alignas(2 * CACHE_LINE) /* processors fetch lines in pairs */

static struct {
    /* What is to be done. It changes only where all chunks are done. */
    ALONE_ON_A_LINE _Atomic(Work) work;
    _Atomic(void *) context;
    atomic_long chunks, threads;
    atomic_uint mode; /* of floating-point numbers, as the caller has set it */
    ALONE_ON_A_LINE atomic_uint unfinished;
    atomic_uint waiting; /* 1 while the caller sleeps until `unfinished` is 0 */
    ALONE_ON_A_LINE atomic_flag taken;
    /* These belong to the caller who has taken the pool. */
    uint64_t number; /* of the work */
    long workers;
    int64_t alone_until, rest; /* the caller works alone for the length of this */
    int watches_forks;
} pool = {.taken = ATOMIC_FLAG_INIT};

static struct {
    /* The number of the work, in the upper half, and how many chunks of this thread's part nobody
       has taken. Who takes one has read what is to be done after the number and before he changes
       this, so it is that of the same work. */
    ALONE_ON_A_LINE atomic_uint_fast64_t left;
    atomic_uint asleep;
} parts[MOST_WORKERS + 1];

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)1000000000 + time.tv_nsec;
}

#ifdef __linux__
static void sleep_while(atomic_uint *word, unsigned value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

static void forget_sleepers(void) {}
#else
/* All sleep under one lock, and each looks whether his word was meant. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;

static void sleep_while(atomic_uint *word, unsigned value) {
    pthread_mutex_lock(&lock);
    while (atomic_load(word) == value) pthread_cond_wait(&woken, &lock);
    pthread_mutex_unlock(&lock);
}

static void wake(atomic_uint *word) {
    (void)word;
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&woken);
    pthread_mutex_unlock(&lock);
}

static void forget_sleepers(void) {
    lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    woken = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}
#endif

static uint32_t number_of(long part) { return atomic_load(&parts[part].left) >> 32; }

/* Take and do chunks of a part until none is left. */
static void do_part(long part, long thread) {
    uint64_t left = atomic_load(&parts[part].left);
    while ((uint32_t)left) {
        Work work = atomic_load(&pool.work);
        void *context = atomic_load(&pool.context);
        long threads = atomic_load(&pool.threads);
        long end = atomic_load(&pool.chunks) * (part + 1) / threads;
        unsigned mode = atomic_load(&pool.mode);
        if (thread >= threads) return; /* woken for earlier work, by more */
        if (!atomic_compare_exchange_weak(&parts[part].left, &left, left - 1)) continue;
        set_float_mode(mode);
        work(context, end - (long)(uint32_t)left, thread);
        if (atomic_fetch_sub(&pool.unfinished, 1) == 1 && atomic_load(&pool.waiting))
            wake(&pool.unfinished);
        left = atomic_load(&parts[part].left);
    }
}

/* The own part first, and then those of the others. */
static void do_parts(long thread) {
    long threads = atomic_load(&pool.threads);
    for (long i = 0; i < threads; i++) do_part((thread + i) % threads, thread);
}

/* Return the number of the next work. Spin for it as long as a drawing goes on, leaving the processor
   to others who want it; then sleep. */
static uint32_t await_work(long thread, uint32_t before) {
    atomic_uint *asleep = &parts[thread].asleep;
    uint32_t number;
    for (int64_t start = now(); now() - start < SPIN; sched_yield())
        for (int i = 0; i < 32; i++) {
            if ((number = number_of(thread)) != before) return number;
            rest_a_moment();
        }
    atomic_store(asleep, 1);
    while ((number = number_of(thread)) == before) {
        sleep_while(asleep, 1);
        atomic_store(asleep, 1);
    }
    atomic_store(asleep, 0);
    return number;
}

static void *serve(void *thread) {
    for (uint32_t number = 0;;) {
        number = await_work((long)thread, number);
        do_parts((long)thread);
    }
    return NULL;
}

/* Forget the workers, which a child has not, and whatever they were doing. */
static void start_anew(void) {
    forget_sleepers();
    pool.workers = 0;
    pool.alone_until = pool.rest = 0;
    for (long part = 0; part <= MOST_WORKERS; part++) atomic_store(&parts[part].left, 0);
    atomic_flag_clear(&pool.taken);
}

/* Have so many workers, or as many as the system gives. They get no signals, which are Python's. */
static long grow(long workers) {
    workers = MIN(workers, MOST_WORKERS);
    if (pool.workers >= workers) return workers;
    if (!pool.watches_forks) pool.watches_forks = !pthread_atfork(NULL, NULL, start_anew);
    sigset_t all, before;
    pthread_attr_t attributes;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (pthread_t id; pool.workers < workers; pool.workers++)
        if (pthread_create(&id, &attributes, serve, (void *)(pool.workers + 1))) break;
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.workers;
}

/* Wait for the chunks that others have begun; and where that took long, work alone for a while. */
static void await_others(void) {
    if (!atomic_load(&pool.unfinished)) return;
    int64_t start = now(), waited = 0;
    while (atomic_load(&pool.unfinished) && (waited = now() - start) < PATIENCE) rest_a_moment();
    if (waited < PATIENCE) return;
    atomic_store(&pool.waiting, 1);
    for (unsigned count; (count = atomic_load(&pool.unfinished));)
        sleep_while(&pool.unfinished, count);
    atomic_store(&pool.waiting, 0);
    waited = now() - start;
    if (waited < LONG_WAIT) return;
    int again = start - pool.alone_until < pool.rest;
    pool.rest = MIN(2 * (again ? pool.rest : waited), MOST_REST);
    pool.alone_until = start + waited + pool.rest;
}

static void share(Work work, void *context, long chunks, long threads) {
    atomic_store(&pool.work, work);
    atomic_store(&pool.context, context);
    atomic_store(&pool.chunks, chunks);
    atomic_store(&pool.threads, threads);
    atomic_store(&pool.mode, float_mode());
    atomic_store(&pool.unfinished, (unsigned)chunks);
    pool.number++;
    for (long part = 0; part < threads; part++) {
        long count = chunks * (part + 1) / threads - chunks * part / threads;
        atomic_store(&parts[part].left, pool.number << 32 | (uint64_t)count);
        if (atomic_exchange(&parts[part].asleep, 0)) wake(&parts[part].asleep);
    }
    do_parts(0);
    await_others();
}

/* Do all chunks, fewer than 2^31, with at most so many threads. */
static void run_chunks(Work work, void *context, long chunks, long threads) {
    if (threads > chunks) threads = chunks;
    if (threads > 1 && !atomic_flag_test_and_set(&pool.taken)) {
        threads = now() < pool.alone_until ? 1 : 1 + grow(threads - 1);
        if (threads > 1) share(work, context, chunks, threads);
        atomic_flag_clear(&pool.taken);
        if (threads > 1) return;
    }
    for (long chunk = 0; chunk < chunks; chunk++) work(context, chunk, 0);
}
