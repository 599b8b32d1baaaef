/* Clients of a node and a container for it, in one thread with epoll: cheaper by far than what they measure.

   load [plant]

   prints `container PORT` and then does what the lines of its standard input say; each line is a word and numbers:

   jobs PORT CLIENTS JOBS STEPS BATCH WAIT POLL_MS PAYLOAD DELAY_MS HEADER
       Submits JOBS jobs of STEPS steps, BATCH in one request, over CLIENTS connections; each has PAYLOAD bytes beside its
       number. WAIT 1: with `Prefer: wait`. POLL_MS above 0: each client reads its job after that time, until it is done.
       The container takes DELAY_MS for a call. HEADER is one more header of each request, or `-`.
       Prints `called SECONDS` once all calls of the container have been answered. Then a line `verify` is awaited.
       Then every result is read, its id and its output are compared, and `verified JOBS MEDIAN_US P99_US` is printed.

   gets PORT CLIENTS REQUESTS HEADER PATH
       Reads PATH that often; each reply has to be the same. Prints `called SECONDS`, awaits `verify`, prints `verified REQUESTS MEDIAN_US P99_US`.

   A wrong result ends the program with the code 1 and says what was wrong. `plant` makes the container return one wrong
   number, to show that it is noticed.

   The data of a job is {"n":NUMBER,"pad":"xx…"}; the container returns it with a NUMBER that is larger by one. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ID = 36, DIGITS = 10, EVENTS = 256 };
#define FIRST_NUMBER 1000000000L

typedef struct {
    char *data;
    size_t length, room;
} Text;

typedef enum { LISTENER, CALLED, CLIENT, ORDERS } Kind;

typedef struct Peer {
    Kind kind;
    int fd;
    int writing;       /* waits for room in the socket's buffer */
    Text in, out;
    size_t sent;
    long first, count; /* jobs of the request that is under way; count 0: none */
    int reading;       /* it reads results, and does not submit */
    double began;      /* when the job was submitted */
    double due;        /* when to go on; 0: now */
    struct Peer *next; /* in the queue of delayed replies */
} Peer;

static struct {
    int port, clients, batch, steps, wait, reads;
    long jobs, payload;
    double poll, delay;
    char header[512], path[1024];
} plan;

static int poller, stopped, planted, phase; /* phase 0: idle, 1: submitting, 2: waits for `verify`, 3: verifying */
static long submitted, replied, calls, verified, verifying;
static double started;
static char (*ids)[ID + 1];
static double *latencies;
static Peer **clients, *delayed, *delayed_last;
static Text pad, expected_body;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    exit(1);
}

/* -- texts ---------------------------------------------------------------------------------------- */

static void reserve(Text *text, size_t more) {
    if (text->length + more + 1 > text->room) {
        text->room = 2 * (text->length + more + 1);
        text->data = realloc(text->data, text->room);
        if (!text->data) fail("no memory");
    }
}

static void append(Text *text, const char *data, size_t length) {
    reserve(text, length);
    memcpy(text->data + text->length, data, length);
    text->length += length;
    text->data[text->length] = 0;
}

static void add(Text *text, const char *format, ...) {
    va_list values;
    char line[2048];
    va_start(values, format);
    append(text, line, (size_t)vsnprintf(line, sizeof line, format, values));
}

static void cut(Text *text, size_t length) {
    memmove(text->data, text->data + length, text->length - length);
    text->length -= length;
}

static void add_data(Text *text, long number) {
    add(text, "{\"n\":%ld,\"pad\":\"", number);
    append(text, pad.data, pad.length);
    append(text, "\"}", 2);
}

static long first_number(long job) { return FIRST_NUMBER + job * 100; }

/* -- connections ---------------------------------------------------------------------------------- */

static Peer *watch(Kind kind, int fd) {
    Peer *peer = calloc(1, sizeof *peer);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    peer->kind = kind, peer->fd = fd;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl: %s", strerror(errno));
    return peer;
}

static void without_delay(int fd) {
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static int connected(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plan.port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect: %s", strerror(errno));
    without_delay(fd);
    return fd;
}

/* A server closes a connection that is idle for seconds, between two phases. */
static void connect_again(Peer *peer) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    peer->fd = connected(), peer->in.length = 0;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, peer->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

static void flush(Peer *peer) {
    while (peer->sent < peer->out.length) {
        ssize_t sent = send(peer->fd, peer->out.data + peer->sent, peer->out.length - peer->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) break;
        if (sent < 0) fail("send: %s", strerror(errno));
        peer->sent += (size_t)sent;
    }
    int left = peer->sent < peer->out.length;
    if (!left) peer->out.length = peer->sent = 0;
    if (left != peer->writing) {
        struct epoll_event event = {.events = left ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = peer};
        epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
        peer->writing = left;
    }
}

/* Return the length of the head and of the whole message at the beginning of the text, or 0 while it is incomplete. */
static size_t message(const Text *text, size_t *head) {
    char *end = text->length ? memmem(text->data, text->length, "\r\n\r\n", 4) : NULL;
    if (!end) return 0;
    *head = (size_t)(end - text->data) + 4;
    *end = 0; /* the names of headers are looked for in the head alone */
    char *length = strcasestr(text->data, "\r\ncontent-length:");
    char *chunked = strcasestr(text->data, "\r\ntransfer-encoding:");
    *end = '\r';
    if (chunked) {
        int whole = text->length > *head + 4 && !memcmp(text->data + text->length - 5, "0\r\n\r\n", 5);
        return whole ? text->length : 0;
    }
    size_t all = *head + (length ? strtoul(length + 17, NULL, 10) : 0);
    return text->length >= all ? all : 0;
}

/* -- the container -------------------------------------------------------------------------------- */

static void answer(Peer *peer) {
    size_t head, all = message(&peer->in, &head);
    char *body = peer->in.data + head, *data = memmem(body, all - head, "\"data\":", 7);
    if (!data) {
        add(&peer->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    } else {
        char *number = memmem(data, (size_t)(peer->in.data + all - data), "\"n\":", 4);
        data += 7 + strspn(data + 7, " ");
        if (!number) fail("a call without a number: %.300s", body);
        number += 4 + strspn(number + 4, " ");
        char *end = memchr(number, '}', (size_t)(peer->in.data + all - number));
        if (!end) fail("a call without an end: %.300s", body);
        char more[24];
        snprintf(more, sizeof more, "%ld", strtol(number, NULL, 10) + 1 + (planted && calls == planted));
        memcpy(number, more, DIGITS);
        size_t length = (size_t)(end - data) + 1;
        add(&peer->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", length);
        append(&peer->out, data, length);
        calls++;
    }
    cut(&peer->in, all);
    flush(peer);
}

static void called(Peer *peer) {
    size_t head;
    if (!message(&peer->in, &head)) return;
    if (!plan.delay || !memmem(peer->in.data, peer->in.length, "\"data\":", 7)) {
        answer(peer);
        return;
    }
    peer->due = now() + plan.delay, peer->next = NULL;
    if (delayed) delayed_last->next = peer;
    else delayed = peer;
    delayed_last = peer;
}

/* -- the clients ---------------------------------------------------------------------------------- */

static void send_request(Peer *peer, const char *method, const char *path, const Text *body, const char *more) {
    if (peer->fd < 0) connect_again(peer);
    add(&peer->out, "%s ", method);
    append(&peer->out, path, strlen(path));
    add(&peer->out, " HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s", plan.port, more, plan.header);
    if (body) add(&peer->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body->length);
    else append(&peer->out, "\r\n", 2);
    if (body) append(&peer->out, body->data, body->length);
    flush(peer);
}

static void submit(Peer *peer) {
    static Text body;
    peer->count = 0;
    if (submitted == plan.jobs) return;
    peer->first = submitted, peer->count = plan.batch, peer->reading = plan.reads, peer->began = now();
    submitted += plan.batch;
    if (plan.reads) {
        send_request(peer, "GET", plan.path, NULL, "");
        return;
    }
    body.length = 0;
    for (long job = peer->first; job < peer->first + peer->count; job++) {
        append(&body, plan.batch == 1 ? "" : job == peer->first ? "[" : ",", plan.batch > 1);
        append(&body, "{\"containers\":[", 15);
        for (int step = 0; step < plan.steps; step++) append(&body, step ? ",\"echo\"" : "\"echo\"", step ? 7 : 6);
        append(&body, "],\"data\":", 9);
        add_data(&body, first_number(job));
        append(&body, "}", 1);
    }
    if (plan.batch > 1) append(&body, "]", 1);
    const char *path = plan.batch > 1 ? "/api/jobs/batch" : "/api/jobs";
    send_request(peer, "POST", path, &body, plan.wait ? "Prefer: wait=60\r\n" : "");
}

static void read_results(Peer *peer) {
    static Text path;
    path.length = 0;
    for (long job = peer->first; job < peer->first + peer->count; job++)
        add(&path, "%s%s", job == peer->first ? "/api/jobs?id=" : "&id=", ids[job]);
    peer->reading = 1, peer->due = 0;
    send_request(peer, "GET", path.data, NULL, "");
}

static void verify_more(Peer *peer) {
    long group = plan.payload > 10000 ? 1 : 50;
    peer->count = 0;
    if (verifying == plan.jobs) return;
    peer->first = verifying, peer->count = plan.jobs - verifying < group ? plan.jobs - verifying : group;
    verifying += peer->count;
    read_results(peer);
}

/* Return what follows the next name in the text, without spaces; the text ends with a zero. */
static char *after(char *text, const char *name) {
    char *found = strstr(text, name);
    if (!found) return NULL;
    found += strlen(name);
    return found + strspn(found, " :");
}

/* Compare the result at this place; return the place behind it, or NULL if the job still runs. */
static char *compared(char *text, long job) {
    static Text expected;
    char *id = after(text, "\"id\""), *status = id ? after(id, "\"status\"") : NULL;
    if (!status || strncmp(id + 1, ids[job], ID)) fail("job %ld, %s: not its result: %.300s", job, ids[job], text);
    if (!strncmp(status, "\"running\"", 9)) return NULL;
    char *output = after(status, "\"output\"");
    if (strncmp(status, "\"success\"", 9) || !output) fail("job %ld: it failed: %.300s", job, id);
    expected.length = 0;
    add_data(&expected, first_number(job) + plan.steps);
    for (char *want = expected.data; *want; want++, output++) {
        while (*output == ' ') output++;
        if (*want != *output) fail("job %ld: wrong output: %.300s", job, id);
    }
    verified++;
    return output;
}

static void keep_ids(Peer *peer, char *body) {
    for (long job = peer->first; job < peer->first + peer->count; job++) {
        char *id = body ? after(body, "\"id\"") : NULL;
        if (!id || id[0] != '"' || strlen(id) < ID + 1) fail("job %ld: no id: %.300s", job, body ? body : "");
        memcpy(ids[job], id + 1, ID);
        body = id + ID;
    }
}

static void finished(Peer *peer) {
    latencies[replied / plan.batch] = now() - peer->began;
    replied += plan.batch;
    submit(peer);
}

static void got(Peer *peer) {
    size_t head, all = message(&peer->in, &head);
    if (!all) return;
    char *body = peer->in.data + head, *place = body;
    char last = peer->in.data[all];
    peer->in.data[all] = 0;
    if (strncmp(peer->in.data, "HTTP/1.1 200", 12)) fail("%.600s", peer->in.data);
    if (plan.reads) {
        size_t length = all - head;
        if (!replied) expected_body.length = 0, append(&expected_body, body, length);
        if (expected_body.length != length || memcmp(expected_body.data, body, length))
            fail("a reply that differs from the first one: %.300s", body);
        finished(peer);
    } else if (!peer->reading) {
        keep_ids(peer, body);
        if (plan.wait && !compared(body, peer->first)) fail("not awaited: %.300s", body);
        if (plan.poll > 0) peer->reading = 1, peer->due = now() + plan.poll;
        else finished(peer);
    } else {
        long before = verified;
        for (long job = peer->first; place && job < peer->first + peer->count; job++) place = compared(place, job);
        if (!place) verified = before, peer->due = now() + (plan.poll > 0 ? plan.poll : 0.002);
        else if (phase == 1) finished(peer);
        else verify_more(peer);
    }
    peer->in.data[all] = last;
    cut(&peer->in, all);
}

/* -- what is asked for ---------------------------------------------------------------------------- */

static int ascending(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static void begin(char *line) {
    int at = 0;
    char header[512];
    double poll = 0, delay = 0;
    memset(&plan, 0, sizeof plan);
    plan.batch = plan.steps = 1;
    if (sscanf(line, "jobs %d %d %ld %d %d %d %lf %ld %lf %511[^\n]", &plan.port, &plan.clients, &plan.jobs, &plan.steps,
               &plan.batch, &plan.wait, &poll, &plan.payload, &delay, header) == 10) {
        plan.poll = poll / 1000, plan.delay = delay / 1000;
    } else if (sscanf(line, "gets %d %d %ld %n", &plan.port, &plan.clients, &plan.jobs, &at) == 3 && at) {
        plan.reads = 1;
        if (sscanf(line + at, "%1023s %511[^\n]", plan.path, header) != 2) fail("not understood: %s", line);
    } else {
        fail("not understood: %s", line);
    }
    if (plan.jobs < 1 || plan.clients < 1 || plan.jobs % plan.batch) fail("jobs that are no batches: %s", line);
    if (strcmp(header, "-")) snprintf(plan.header, sizeof plan.header, "%.500s\r\n", header);
    pad.length = 0;
    reserve(&pad, (size_t)plan.payload);
    memset(pad.data, 'x', (size_t)plan.payload);
    pad.length = (size_t)plan.payload;
    ids = calloc((size_t)plan.jobs + 1, sizeof *ids);
    latencies = calloc((size_t)plan.jobs + 1, sizeof *latencies);
    clients = calloc((size_t)plan.clients, sizeof *clients);
    submitted = replied = calls = verified = verifying = 0;
    for (int i = 0; i < plan.clients; i++) clients[i] = watch(CLIENT, connected());
    phase = 1, started = now();
    for (int i = 0; i < plan.clients; i++) submit(clients[i]);
}

static void order(void) {
    char line[2048];
    if (!fgets(line, sizeof line, stdin)) stopped = 1;
    else if (phase == 0) begin(line);
    else if (phase == 2 && !strncmp(line, "verify", 6)) {
        phase = 3;
        if (plan.reads || plan.wait || plan.poll > 0) return;
        for (int i = 0; i < plan.clients; i++) verify_more(clients[i]);
    } else fail("not now: %s", line);
}

static void advance(void) {
    if (phase == 1 && replied == plan.jobs && (plan.reads || calls >= plan.jobs * plan.steps)) {
        printf("called %.6f\n", now() - started);
        phase = 2;
    }
    if (phase == 3 && (plan.reads || verified == plan.jobs)) {
        long count = plan.jobs / plan.batch;
        qsort(latencies, (size_t)count, sizeof *latencies, ascending);
        printf("verified %ld %.1f %.1f\n", plan.jobs, latencies[count / 2] * 1e6, latencies[count * 99 / 100] * 1e6);
        for (int i = 0; i < plan.clients; i++) close(clients[i]->fd), clients[i]->fd = -1;
        free(ids), free(latencies), free(clients);
        phase = 0;
    }
    fflush(stdout);
}

static void receive(Peer *peer) {
    reserve(&peer->in, peer->in.length > 65536 ? peer->in.length : 65536);
    ssize_t got_bytes = recv(peer->fd, peer->in.data + peer->in.length, peer->in.room - peer->in.length - 1, 0);
    if (got_bytes < 0 && errno == EAGAIN) return;
    if (got_bytes <= 0) {
        if (peer->kind == CLIENT && peer->count) fail("the server closed a connection before it answered");
        close(peer->fd);
        peer->fd = -1;
        return;
    }
    peer->in.length += (size_t)got_bytes;
    peer->in.data[peer->in.length] = 0;
    if (peer->kind == CLIENT) got(peer);
    else called(peer);
}

/* Do what is due; return the milliseconds until there is more to do. */
static int due(void) {
    double at = now(), first = at + 1;
    while (delayed && delayed->due <= at) {
        Peer *peer = delayed;
        delayed = peer->next;
        if (peer->fd >= 0) answer(peer);
    }
    if (delayed && delayed->due < first) first = delayed->due;
    if (phase == 1 || phase == 3)
        for (int i = 0; i < plan.clients; i++) {
            if (!clients[i]->due) continue;
            if (clients[i]->due <= at) read_results(clients[i]);
            else if (clients[i]->due < first) first = clients[i]->due;
        }
    return (int)((first - at) * 1000) + 1;
}

int main(int count, char **words) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct epoll_event events[EVENTS];
    struct rlimit files;
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    planted = count > 1 && !strcmp(words[1], "plant") ? 7 : 0;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        fail("listen: %s", strerror(errno));
    getsockname(listener, (struct sockaddr *)&address, &size);
    poller = epoll_create1(0);
    watch(LISTENER, listener);
    setvbuf(stdin, NULL, _IONBF, 0); /* a line that was read ahead would not wake epoll */
    watch(ORDERS, 0);
    printf("container %d\n", ntohs(address.sin_port));
    fflush(stdout);
    while (!stopped) {
        int ready = epoll_wait(poller, events, EVENTS, due());
        for (int i = 0; i < ready; i++) {
            Peer *peer = events[i].data.ptr;
            if (peer->kind == ORDERS) order();
            else if (peer->kind == LISTENER) {
                int fd = accept(listener, NULL, NULL);
                if (fd >= 0) without_delay(fd), watch(CALLED, fd);
            } else {
                if (peer->fd >= 0 && events[i].events & EPOLLOUT) flush(peer);
                if (peer->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(peer);
            }
        }
        advance();
    }
    return 0;
}
