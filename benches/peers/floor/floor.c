/* The floor: the least that a server of the plain protocol can do in one thread, so that what is left is the kernel's.
 *
 *   cc -O2 -o floor floor.c && ./floor 1234 each|coalesce
 *
 * `each` sends every frame with a call of its own; `coalesce` sends what is due to a socket in a turn of epoll at once.
 * It trusts its clients: no fragments, no limits beyond a frame's size, no duplicate log-ins, no back-pressure to the
 * sender. A receiver that falls behind is buffered up to OUT_MAX and then cut. A reference to measure, not a server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 16, FRAME_MAX = 1 << 20, OUT_MAX = 64 << 20, EVENTS = 1024, BUCKETS = 1 << 16, HEAD_MAX = 8192 };
enum phase { UPGRADING, LOGGING_IN, OPEN };

struct connection {
    int fd;
    enum phase phase;
    int dirty;            /* on the turn's list of sockets to flush */
    int blocked;          /* the kernel refused bytes: wait for EPOLLOUT */
    int dead;             /* to be freed when the turn ends */
    char *in;             /* a partial frame, only while there is one */
    size_t in_len;
    char *out;            /* bytes due to this socket */
    size_t out_len, out_cap;
    char *uid;
    size_t uid_len;
    struct connection *bucket_next;
    struct connection *prev, *next; /* everybody logged in, for `all:` */
};

static struct connection *buckets[BUCKETS], everybody = {.prev = &everybody, .next = &everybody};
static struct connection **dirty, **dead;
static size_t dirty_len, dirty_cap, dead_len, dead_cap;
static char scratch[FRAME_MAX + 64 + READ_BYTES];
static int poller, coalesce;

/* Buffers for what is due, given back when flushed, so that an idle connection holds none. */
enum { POOLED = 1024, POOLED_BYTES = 4096 };
static char *pool[POOLED];
static size_t pool_len;

static void die(const char *what) {
    perror(what);
    exit(2);
}

static void push(struct connection ***list, size_t *len, size_t *cap, struct connection *c) {
    if (*len == *cap) {
        *cap = *cap ? *cap * 2 : 1024;
        *list = realloc(*list, *cap * sizeof **list);
        if (!*list) die("realloc");
    }
    (*list)[(*len)++] = c;
}

/* ---- SHA-1 and base64, for Sec-WebSocket-Accept (FIPS 180-4, RFC 4648) ---- */

static uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1(const unsigned char *text, size_t len, unsigned char digest[20]) {
    unsigned char block[128] = {0};
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    size_t total = len + 9 <= 64 ? 64 : 128; /* the text is a key and a GUID: 60 bytes */
    if (len + 9 > 128) return;
    memcpy(block, text, len);
    block[len] = 0x80;
    for (int i = 0; i < 8; i++) block[total - 1 - i] = (unsigned char)((uint64_t)len * 8 >> 8 * i);
    for (size_t at = 0; at < total; at += 64) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            const unsigned char *p = block + at + 4 * i;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
            uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
            uint32_t t = rotate(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64_of_digest(const unsigned char digest[20], char text[29]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char padded[21] = {0};
    memcpy(padded, digest, 20);
    for (int i = 0, o = 0; i < 21; i += 3) {
        uint32_t v = (uint32_t)padded[i] << 16 | (uint32_t)padded[i + 1] << 8 | padded[i + 2];
        for (int s = 18; s >= 0; s -= 6) text[o++] = letters[v >> s & 63];
    }
    text[27] = '=';
    text[28] = 0;
}

/* ---- uid to connection ---- */

static struct connection **bucket_of(const char *uid, size_t len) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)uid[i]) * 1099511628211u;
    return &buckets[(h ^ h >> 32) % BUCKETS];
}

static struct connection *find(const char *uid, size_t len) {
    struct connection *c = *bucket_of(uid, len);
    while (c && (c->uid_len != len || memcmp(c->uid, uid, len))) c = c->bucket_next;
    return c;
}

static void forget(struct connection *c) {
    if (c->dead) return;
    c->dead = 1;
    push(&dead, &dead_len, &dead_cap, c);
    if (c->phase != OPEN) return;
    struct connection **at = bucket_of(c->uid, c->uid_len);
    while (*at && *at != c) at = &(*at)->bucket_next;
    if (*at) *at = c->bucket_next;
    c->prev->next = c->next;
    c->next->prev = c->prev;
}

/* ---- sending ---- */

static void want(struct connection *c, uint32_t events) {
    struct epoll_event e = {.events = events | EPOLLET, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void keep(struct connection *c, const char *bytes, size_t len) {
    if (c->out_len + len > OUT_MAX) {
        forget(c);
        return;
    }
    if (!c->out && pool_len) c->out = pool[--pool_len], c->out_cap = POOLED_BYTES;
    if (c->out_len + len > c->out_cap) {
        c->out_cap = c->out_cap ? c->out_cap : POOLED_BYTES;
        while (c->out_cap < c->out_len + len) c->out_cap *= 2;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out) die("realloc");
    }
    memcpy(c->out + c->out_len, bytes, len);
    c->out_len += len;
}

static void flush(struct connection *c) {
    if (c->dead || !c->out_len) return;
    ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        forget(c);
        return;
    }
    size_t sent = n < 0 ? 0 : (size_t)n;
    if (sent == c->out_len) {
        if (c->out_cap == POOLED_BYTES && pool_len < POOLED) pool[pool_len++] = c->out;
        else free(c->out);
        c->out = NULL, c->out_cap = c->out_len = 0;
        if (c->blocked) c->blocked = 0, want(c, EPOLLIN);
        return;
    }
    memmove(c->out, c->out + sent, c->out_len - sent);
    c->out_len -= sent;
    if (!c->blocked) c->blocked = 1, want(c, EPOLLIN | EPOLLOUT);
}

static void deliver(struct connection *c, const char *frame, size_t len) {
    if (c->dead) return;
    if (coalesce || c->blocked) {
        keep(c, frame, len);
        if (!c->dirty && !c->blocked) c->dirty = 1, push(&dirty, &dirty_len, &dirty_cap, c);
        return;
    }
    ssize_t n = send(c->fd, frame, len, MSG_NOSIGNAL);
    if (n == (ssize_t)len) return;
    if (n < 0 && errno != EAGAIN) {
        forget(c);
        return;
    }
    if (n < 0) n = 0;
    keep(c, frame + n, len - (size_t)n);
    c->blocked = 1;
    want(c, EPOLLIN | EPOLLOUT);
}

/* Writes the head of an unmasked frame right before `payload`, where there is room, and returns where it begins. */
static char *head_before(char *payload, size_t len, unsigned char first) {
    char *head;
    if (len < 126) {
        head = payload - 2;
        head[1] = (char)len;
    } else if (len < 65536) {
        head = payload - 4;
        head[1] = 126, head[2] = (char)(len >> 8), head[3] = (char)len;
    } else {
        head = payload - 10;
        head[1] = 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (char)((uint64_t)len >> (56 - 8 * i));
    }
    head[0] = (char)first;
    return head;
}

/* ---- receiving ---- */

static void log_in(struct connection *c, const char *uid, size_t len) {
    static const char before[] = "Login realizado com sucesso, seu uid \xc3\xa9 ";
    char reply[16 + sizeof before + 256];
    if (len > 60) len = 60; /* the reply's head stays two bytes long */
    c->uid = malloc(len ? len : 1);
    if (!c->uid) die("malloc");
    memcpy(c->uid, uid, len);
    c->uid_len = len;
    struct connection **bucket = bucket_of(c->uid, len);
    c->bucket_next = *bucket;
    *bucket = c;
    c->prev = everybody.prev, c->next = &everybody;
    everybody.prev->next = c, everybody.prev = c;
    c->phase = OPEN;
    memcpy(reply + 16, before, sizeof before - 1);
    memcpy(reply + 16 + sizeof before - 1, uid, len);
    size_t reply_len = sizeof before - 1 + len;
    char *frame = head_before(reply + 16, reply_len, 0x81);
    deliver(c, frame, reply_len + 2);
}

static void take_message(struct connection *c, char *payload, size_t len, unsigned char first) {
    if (c->phase == LOGGING_IN) {
        log_in(c, payload, len);
        return;
    }
    char *colon = memchr(payload, ':', len);
    if (!colon) return;
    size_t uid_len = (size_t)(colon - payload), rest = len - uid_len - 1;
    char uid[256];
    if (uid_len > sizeof uid) return;
    memcpy(uid, payload, uid_len); /* the head may overwrite it */
    char *frame = head_before(colon + 1, rest, first);
    size_t frame_len = (size_t)(colon + 1 - frame) + rest;
    if (uid_len == 3 && !memcmp(uid, "all", 3)) {
        for (struct connection *to = everybody.next; to != &everybody;) {
            struct connection *next = to->next;
            deliver(to, frame, frame_len);
            to = next;
        }
    } else {
        struct connection *to = find(uid, uid_len);
        if (to) deliver(to, frame, frame_len);
    }
}

/* Takes one frame, and returns its length on the wire; 0 when it is not all there. */
static size_t take_frame(struct connection *c, char *at, size_t have) {
    unsigned char *p = (unsigned char *)at;
    if (have < 6) return 0;
    size_t len = p[1] & 127, head = 6;
    if (len == 126) {
        if (have < 8) return 0;
        len = (size_t)p[2] << 8 | p[3], head = 8;
    } else if (len == 127) {
        if (have < 14) return 0;
        len = 0, head = 14;
        for (int i = 2; i < 10; i++) len = len << 8 | p[i];
    }
    if (len > FRAME_MAX || !(p[1] & 128)) {
        forget(c);
        return 0;
    }
    if (have < head + len) return 0;
    uint32_t mask;
    memcpy(&mask, at + head - 4, 4);
    uint64_t wide = (uint64_t)mask << 32 | mask;
    char *payload = at + head;
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        uint64_t w;
        memcpy(&w, payload + i, 8);
        w ^= wide;
        memcpy(payload + i, &w, 8);
    }
    for (; i < len; i++) payload[i] ^= at[head - 4 + (i & 3)];
    unsigned char first = p[0];
    switch (first & 15) {
    case 1:
    case 2: take_message(c, payload, len, first); break;
    case 8: {
        char close[2] = {(char)0x88, 0};
        deliver(c, close, 2);
        flush(c);
        forget(c);
        break;
    }
    case 9: {
        char *pong = head_before(payload, len, 0x8a);
        deliver(c, pong, len + 2);
        break;
    }
    }
    return head + len;
}

/* Takes the upgrade request, and returns its length; 0 when it is not all there. */
static size_t take_upgrade(struct connection *c, char *at, size_t have) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", name[] = "Sec-WebSocket-Key:";
    char *end = memmem(at, have, "\r\n\r\n", 4);
    if (!end) {
        if (have > HEAD_MAX) forget(c);
        return 0;
    }
    char text[128], accept[29], answer[256];
    unsigned char digest[20];
    *end = 0;
    char *key = strcasestr(at, name);
    if (!key) {
        forget(c);
        return 0;
    }
    key += sizeof name - 1;
    key += strspn(key, " ");
    int len = snprintf(text, sizeof text, "%.*s%s", (int)strcspn(key, " \r\n") & 63, key, guid);
    sha1((unsigned char *)text, (size_t)len, digest);
    base64_of_digest(digest, accept);
    len = snprintf(answer, sizeof answer,
                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    c->phase = LOGGING_IN;
    deliver(c, answer, (size_t)len);
    return (size_t)(end + 4 - at);
}

static void receive(struct connection *c, int until_blocked) {
    while (!c->dead) {
        size_t held = c->in_len;
        memcpy(scratch, c->in, held);
        ssize_t n = recv(c->fd, scratch + held, READ_BYTES, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            forget(c);
            return;
        }
        free(c->in), c->in = NULL, c->in_len = 0;
        size_t have = held + (size_t)n, at = 0;
        while (at < have && !c->dead) {
            size_t used = c->phase == UPGRADING ? take_upgrade(c, scratch + at, have - at) : take_frame(c, scratch + at, have - at);
            if (!used) break;
            at += used;
        }
        if (at < have && !c->dead) {
            c->in = malloc(have - at);
            if (!c->in) die("malloc");
            memcpy(c->in, scratch + at, have - at);
            c->in_len = have - at;
        }
        if (n < READ_BYTES && !until_blocked) return;
    }
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
    }
}

int main(int argc, char **argv) {
    if (argc != 3 || (strcmp(argv[2], "each") && strcmp(argv[2], "coalesce"))) {
        fprintf(stderr, "usage: %s PORT each|coalesce\n", argv[0]);
        return 2;
    }
    coalesce = !strcmp(argv[2], "coalesce");
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited by what it accepts */
    if (bind(listener, (struct sockaddr *)&to, sizeof to) || listen(listener, 65535)) die("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    if (epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e)) die("epoll_ctl");
    printf("floor: 127.0.0.1:%s %s\n", argv[1], argv[2]);
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (c->dead) continue;
            if (events[i].events & EPOLLOUT) flush(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT) receive(c, (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
        }
        for (size_t i = 0; i < dirty_len; i++) dirty[i]->dirty = 0, flush(dirty[i]);
        dirty_len = 0;
        for (size_t i = 0; i < dead_len; i++) {
            struct connection *c = dead[i];
            close(c->fd);
            free(c->in), free(c->out), free(c->uid), free(c);
        }
        dead_len = 0;
    }
}
