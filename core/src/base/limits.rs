//! Every bound of the engine, its unit and its reason. A setting may lower or raise the ones that say so.

/// Header fields in one head: the size of the stack array that a head is parsed into. Settings may lower it.
pub const HEADER_COUNT_MAX: usize = 128;

/// Bytes of one pooled I/O buffer. A head must fit into one, so it is also the ceiling of `header_bytes`.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Default for the bytes of a request or response head, start line and all fields included. nginx: 4×8 KiB, `HAProxy`: 16 KiB.
pub const HEADER_BYTES_DEFAULT: usize = 16 * 1024;

/// Default for the bytes of a request target (RFC 9110 section 4.1 asks for at least 8,000).
pub const URI_BYTES_DEFAULT: usize = 8 * 1024;

/// Bytes of one chunk-size line, extensions included (RFC 9112 section 7.1.1 asks for a bound).
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a whole trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Spare I/O buffers that a worker keeps for reuse: 4 MiB.
pub const FREE_BUFFERS_MAX: usize = 256;

/// What one client's address may take of the buffers for requests, and of those for responses: this part. Half, so that
/// one client leaves room for others, and all clients behind one load balancer still have as much.
pub const ADDRESS_BUFFERS_DIVISOR: usize = 2;

/// What one connection that carries many requests may take of the same.
pub const CONNECTION_BUFFERS_DIVISOR: usize = 4;

/// Connections taken from a listener before its task lets others run.
pub const ACCEPT_BATCH: usize = 64;
/// Bytes that a task moves before it lets the others of its worker run: some 30 µs of copying. Less would cost bulk transfers
/// throughput, more would have everybody else wait.
pub const TURN_BYTES: usize = 128 * 1024;
/// Requests of one connection that are answered, or streams that are accepted, before the others of its worker are let run.
pub const TURN_REQUESTS: u32 = 32;
/// Receives of a TLS connection that bring no plaintext before the others of its worker are let run.
pub const TURN_RECEIVES: usize = 16;

/// The listen queue asked for; the kernel lowers it to net.core.somaxconn.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Sockets and messages that may wait in one worker's mailbox.
pub const MAILBOX_MAX: usize = 1024;

/// Bytes of a splice pipe. Measured at 64 KiB, 256 KiB and 1 MiB (docs/performance.md): the first costs half as much
/// again on bodies of 1 MiB, the last gains nothing.
pub const PIPE_BYTES: usize = 256 * 1024;

/// Spare splice pipes that a worker keeps.
pub const FREE_PIPES_MAX: usize = 32;

/// The rest of a body, after what came with its head, from which on it is moved by splice(2). Measured: up to 4 KiB
/// copying is cheaper by 4 %, at 16 KiB splicing is by 21 %, at 1 MiB by 38 % and more (docs/performance.md).
pub const SPLICE_BYTES_MIN: u64 = 16 * 1024;

/// Connections to endpoints that one client's connection may own, since they were authenticated as that client. A client
/// that needs more loses the oldest, and authenticates again.
pub const PRIVATE_CONNECTIONS_MAX: usize = 4;

/// Idle upstream connections to one endpoint that workers may have lent at once.
pub const LENT_CONNECTIONS_MAX: usize = 64;
/// Bytes of a request method. The longest registered one (UPDATEREDIRECTREF) has 17; a longer one is no method.
pub const METHOD_BYTES_MAX: usize = 32;

/// Members of all Connection fields of a head together. Each is looked up among the fields, so the product must
/// be bounded; real messages carry one to three.
pub const CONNECTION_OPTION_COUNT_MAX: usize = 32;

/// Empty lines that are skipped before a request line (RFC 9112 section 2.2 asks for at least one).
pub const LEADING_EMPTY_LINE_COUNT_MAX: usize = 2;

/// Bytes of chunk framing beyond what is fair (16 per chunk and twice its data) that one body may pile up before it
/// is refused: bounds extensions and floods of tiny chunks alike. Go's net/http uses the same measure and figure.
pub const CHUNK_EXCESS_BYTES_MAX: u64 = 16 * 1024;
/// Bytes of a configuration file. Read whole, so it must be bounded; 10,000 routes with five fields each take about 3 MiB.
pub const CONFIG_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Nesting of a configuration file. The format itself needs 8; the bound keeps recursion off the end of the stack.
pub const CONFIG_DEPTH_MAX: usize = 32;

/// YAML nodes of a configuration file after aliases are expanded: stops a file that doubles itself with each alias.
pub const CONFIG_NODES_MAX: usize = 4_000_000;

/// Errors listed before a report says "and more": a person reads no further.
pub const CONFIG_ERRORS_MAX: usize = 100;

/// Routes, listeners, upstreams and endpoints of one upstream: far above any real file, and they fit a `u32` index.
pub const ROUTES_MAX: usize = 200_000;
pub const LISTENERS_MAX: usize = 1_000;
pub const UPSTREAMS_MAX: usize = 100_000;
pub const ENDPOINTS_MAX: usize = 10_000;

/// Endpoint weight: the ratio of two endpoints stays within what a smooth schedule can hold.
pub const ENDPOINT_WEIGHT_MAX: u32 = 1_000;

/// Characters of one regular expression, and bytes of its compiled program: matching stays linear, this bounds the memory.
pub const REGEX_CHARS_MAX: usize = 1_024;
pub const REGEX_PROGRAM_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a body that a route answers with by itself: it is kept in the snapshot and sent from one buffer.
pub const RESPOND_BODY_BYTES_MAX: usize = 64 * 1024;

/// Characters of a name (listener, upstream, route): it becomes a metric label.
pub const NAME_CHARS_MAX: usize = 128;

/// Header operations of one route and direction, and bytes of one value: they must fit the head's buffer.
pub const HEADER_OPS_MAX: usize = 64;
pub const HEADER_VALUE_BYTES_MAX: usize = 4 * 1024;

/// A setting's duration: longer is a slip of the pen.
pub const DURATION_DAYS_MAX: u64 = 30;

/// Hosts summed over all routes: each pair is an entry of the route table.
pub const ROUTE_HOSTS_MAX: usize = 1_000_000;

/// How long the rest of a refused request is read away, so that the client can read the answer: in all, without a
/// byte, and how many bytes.
pub const LINGER_TOTAL_MS: u64 = 5_000;
/// See [`LINGER_TOTAL_MS`].
pub const LINGER_IDLE_MS: u64 = 2_000;
/// See [`LINGER_TOTAL_MS`].
pub const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Interim responses (1xx) that an origin may send before the final one.
pub const INTERIM_RESPONSES_MAX: u32 = 16;

/// Attempts at one request: kept connections that prove dead and endpoints that refuse.
pub const ATTEMPTS_MAX: u32 = 4;

/// How often one request opens a connection to the same endpoint in vain: once more after the first, since a listener may be
/// between two processes.
pub const CONNECTS_PER_ENDPOINT_MAX: usize = 2;

/// All connections that one request opens in vain take together at most so many times `timeouts.connect`: what is tried
/// elsewhere must not multiply what people have set.
pub const CONNECT_TIMEOUTS_PER_REQUEST_MAX: u32 = 2;

/// From when on a client is watched for having gone, while its request waits for something else. Most waits are over before,
/// and pay nothing for it; a client that goes leaves its places and its upstream connection no later than this.
pub const WATCH_CLIENT_AFTER_MS: u64 = 25;

/// A client that can't be waited for, since it has sent more or has closed its half, is looked at so often.
pub const LOOK_AT_CLIENT_MS: u64 = 1_000;

/// Batches of access log lines (16 KiB each) that may wait for the writer: 4 MiB. Beyond it lines are dropped.
pub const LOG_BATCHES_MAX: usize = 256;

/// How long the process waits at its end, for each log, for what has been logged to be written.
pub const LOG_FLUSH_MS: u64 = 1_000;

/// Connections to the admin listener; more wait in the kernel's queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;

/// How long a scrape waits for the workers' numbers.
pub const COLLECT_TIMEOUT_MS: u64 = 1_000;

/// How long the resolver may take for one name.
pub const RESOLVE_TIMEOUT_MS: u64 = 5_000;

/// Addresses taken of one name.
pub const ADDRESSES_PER_NAME_MAX: usize = 256;

/// A body at hand with its head, up to this, is copied behind the head instead of being a second piece of the write.
pub const COPIED_BODY_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a head in HTTP/1.1 form that is collected to be sent by HTTP/2, from the first to the empty line. Our own
/// encoders wrote it: 16 KiB of the peer's and all that 64 operations may add.
pub const RENDERED_HEAD_BYTES_MAX: usize =
    HEADER_BYTES_DEFAULT + HEADER_OPS_MAX * (HEADER_VALUE_BYTES_MAX + 256);
/// Plaintext bytes that go out with one send(2) of a TLS connection: four records of the largest size.
pub const TLS_SEND_BYTES: usize = 64 * 1024;

/// Ciphertext bytes that a TLS connection keeps while they are no whole record or handshake message. rustls takes
/// handshake messages up to this size.
pub const TLS_HELD_BYTES_MAX: usize = 64 * 1024;

/// Sessions to origins that one worker remembers for one upstream, so as to take them up again.
pub const TLS_CLIENT_SESSIONS_MAX: usize = 256;

/// Ticket keys that one file may hold: each ticket names its own, so more would cost nothing but a search.
pub const TICKET_KEYS_MAX: usize = 8;

/// Bytes of a whole PROXY header of version 2. The format allows 64 KiB; addresses take up to 216, and host name,
/// certificate's name and connection id together a few hundred.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 * 1024;

// Retry, breaker, concurrency limit and deadline (policy::{retry,breaker,concurrency,deadline}).

/// Tries at one request that a retry setting may ask for, the first included. Envoy has no bound; ten tries at one
/// failing origin are nine too many already.
pub const RETRY_ATTEMPTS_MAX: u32 = 10;

/// Body bytes that a setting may have kept of one request, so that it can be sent again.
pub const RETRY_BODY_BYTES_MAX: u64 = 1024 * 1024;

/// The longest back-off, and the longest Retry-After that is waited for, in milliseconds: the client waits, too.
pub const RETRY_WAIT_MS_MAX: u64 = 60_000;

/// The floor of a retry budget and its retries in flight, for one upstream of one worker.
pub const RETRY_BUDGET_MAX: u32 = 100_000;

/// The highest number that a `ringway-attempt` field may carry: two digits. A chain of hops is shorter.
pub const ATTEMPT_NUMBER_MAX: u32 = 99;

/// The window of a breaker, and how long it rejects at most, in milliseconds.
pub const BREAKER_WINDOW_MS_MAX: u64 = 600_000;
/// See [`BREAKER_WINDOW_MS_MAX`].
pub const BREAKER_REJECTING_MS_MAX: u64 = 600_000;

/// Probes of a breaker: it should learn from few.
pub const BREAKER_PROBES_MAX: u32 = 100;

/// Requests in flight that an adaptive limit may reach, for one upstream of one worker.
pub const CONCURRENCY_LIMIT_MAX: u32 = 100_000;

/// What a `ringway-timeout-ms` field can say at most: nine digits, 11 days.
pub const TIMEOUT_FIELD_MS_MAX: u64 = 999_999_999;

// Health of endpoints.

/// Health checks under way at the same time: each has a socket. At a time-out of one second, a dead network is gone
/// through at 256 endpoints a second.
pub const CHECKS_IN_FLIGHT_MAX: usize = 256;

/// First checks of new endpoints begin so far apart: one endpoint is checked at once, 10,000 over ten seconds.
pub const FIRST_CHECK_SPREAD_US: u64 = 1_000;

/// How often the prober looks whose ejection is over. A look is one load for each endpoint.
pub const RETURN_SCAN_MS: u64 = 250;

/// How long the check after an ejection may take where no active check is configured.
pub const RETURN_TIMEOUT_MS: u64 = 3_000;

/// Bytes of a health check's response body that are read before the connection is closed on it.
pub const CHECK_BODY_BYTES_MAX: usize = 64 * 1024;

/// Characters kept of an error that a health check met: others' words may be long.
pub const CHECK_REASON_CHARS_MAX: usize = 200;

/// Lines on changes of health that may be written at once, and in a second from then on: a network that fails takes
/// thousands of endpoints with it. What is left out is counted.
pub const HEALTH_LINES_BURST: u32 = 100;
/// See [`HEALTH_LINES_BURST`].
pub const HEALTH_LINES_PER_SECOND: u32 = 10;

// Balancing.

/// Points of one hash ring, but at least one for each endpoint: 16 bytes each, shared by all workers.
pub const RING_ENTRIES_MAX: u32 = 1 << 20;

/// Slots of one Maglev table, a prime: 4 bytes each, shared by all workers.
pub const MAGLEV_SLOTS_MAX: usize = 1_048_573;

/// Endpoints that a key passes over in its table before all are looked at. With half of them unusable one key in 256 gets
/// that far.
pub const HASH_STEPS_MAX: usize = 8;

// Rate limits (policy/rate_limit).

/// Rate limits that may apply to one request: each is a bucket to ask and, if a later one refuses, to give back to.
pub const RATE_LIMITS_PER_REQUEST_MAX: usize = 16;

/// Rate limits that left the configuration whose buckets are kept in mind until they are full, should they come back. Beyond,
/// those that left first begin anew if they do.
pub const RATE_LIMITS_GONE_MAX: usize = 1_024;

/// Nanoseconds after which a worker gives back what it holds of a key that it did not use, and asks again about a key
/// that it refused. 5 ms: a thousandth of a burst of five seconds, and a hot key is used hundreds of times in it.
pub const RATE_LEASE_IDLE_NS: u64 = 5_000_000;

/// Keys of which one worker may hold tokens at once; a tick walks them. Others are asked for at the node.
pub const RATE_LEASES_MAX: usize = 1_024;

/// Keys that a worker's sketch of the heaviest keeps, 88 bytes each. No key above 1/128 of all decisions escapes it.
pub const RATE_HEAVY_KEYS_MAX: usize = 128;

/// Bytes of a key that the sketch keeps to show it.
pub const RATE_KEY_TEXT_BYTES_MAX: usize = 48;

// Traffic splits and canaries (policy::{split,canary}).

/// Arms of one traffic split: as many backends as one rule of the Gateway API may name. Each is looked at for each request.
pub const SPLIT_ARMS_MAX: usize = 16;

/// Weight of one arm of a split, as in the Gateway API.
pub const SPLIT_WEIGHT_MAX: u32 = 1_000_000;

/// Steps of a canary's roll-out: the error that the whole may make is divided among them.
pub const CANARY_STEPS_MAX: usize = 32;

/// Of the file that says how far canaries have come: some 100 bytes each.
pub const CANARY_STATE_BYTES_MAX: u64 = 4 << 20;

/// The longest time, in milliseconds, that one call of a canary's decider takes to have passed since the one before. A
/// machine that slept or a clock that was set must not carry a canary over its interval.
pub const CANARY_TICK_MS_MAX: u64 = 5_000;

// Routes (policy/route).

/// Variables of one path template: what they took stands in an array of that size. No more than a regex has groups.
pub const TEMPLATE_VARIABLES_MAX: usize = 16;

/// Segments of one path template: a look-up goes down them by recursion, some 200 bytes of stack each.
pub const TEMPLATE_SEGMENTS_MAX: usize = 64;

/// Routes that one route is compared with in the search for routes that others leave no request, beside those that
/// match the very same.
pub const ROUTE_SHADOW_COMPARISONS_MAX: usize = 256;

// Traffic (mirrors, explanations).

/// Mirrors of one route: each is a request more.
pub const MIRRORS_PER_ROUTE_MAX: usize = 4;

/// Of a request's body that is copied for a mirror, held until the copy is sent.
pub const MIRROR_BODY_BYTES_MAX: usize = 1 << 20;

/// Routes that an explanation names besides the one that a request takes, the closest first.
pub const EXPLAINED_ROUTES_MAX: usize = 100;

/// Source networks, and server names, of one route: it has a variant for each pair of their ranks.
pub const ROUTE_SOURCES_MAX: usize = 64;

// Kept bodies (base/kept).

/// What a worker keeps of bodies for retries and mirrors is at most its memory for buffers by this. Enough for 1,024 retries
/// of 64 KiB by default, and no more than what an operator expects to be "besides".
pub const KEPT_MEMORY_DIVISOR: u64 = 4;

// What connections hold because somebody does not read (base/backlog).

/// That is at most a worker's memory for buffers by this. By default 128 MiB: 512 uploads whose upstream does not read, with a
/// full window of 256 KiB each, before the heaviest are reset.
pub const BACKLOG_MEMORY_DIVISOR: u64 = 2;

// Memory of tables that workers share (net/memory).

/// Bytes from which on such a table is in huge pages of 2 MiB: some 460,000 keys of rate limits. That of the default 100,000
/// keys stays in small pages, of which only those are taken that keys fall on.
pub const HUGE_TABLE_BYTES_MIN: usize = 8 << 20;

// Literals of regexes (policy/route).

/// Bytes of the literals that a regex keeps, to be told by them from others. What goes beyond is not looked for.
pub const REGEX_LITERAL_BYTES_MAX: usize = 256;

/// Groups into which the regexes of one place are divided, so that only those are asked whose literals a path has: a bit of
/// a look-up's stack each, and a multiple of 64. Beyond, groups become larger.
pub const REGEX_GROUPS_MAX: usize = 1_024;

// Descriptors (net/descriptors).

/// Descriptors of the process that workers leave to others, but no more than a quarter of all: the admin interface's
/// connections, health checks, and files of a reload.
pub const DESCRIPTORS_RESERVED: u64 = (ADMIN_CONNECTIONS_MAX + CHECKS_IN_FLIGHT_MAX + 32) as u64;

/// That this machine is short of something is told once in this time.
pub const SHORTAGE_NOTE_WINDOW_MS: u64 = 10_000;

// Panics (base/panics, worker).

/// Places whose panics are told in the journal. A process that panics at more has other worries.
pub const PANIC_PLACES_MAX: usize = 64;

/// The journal is told once in this time of panics at the same place, with their number.
pub const PANIC_NOTE_WINDOW_MS: u64 = 10_000;

/// Characters kept of a panic's message.
pub const PANIC_MESSAGE_CHARS_MAX: usize = 200;

/// Failures of workers' loops within [`WORKER_FAILURES_WINDOW_MS`] that the process bears: at one more it ends. Each takes
/// the connections of one worker with it, so many in a row are worse than a new process.
pub const WORKER_FAILURES_MAX: usize = 8;
/// See [`WORKER_FAILURES_MAX`].
pub const WORKER_FAILURES_WINDOW_MS: u64 = 60_000;

/// How often a worker that has failed tries to have a runtime again, 100 ms apart, before its thread gives up.
pub const WORKER_START_TRIES_MAX: u32 = 20;
