//! The reason codes: why a request was refused or failed. One table, from which docs/reasons.md is made.
//!
//! A code is stable: it stands in the problem document that a client gets, in the access log and in
//! `ringway_refused_total`. Faults are told apart by it.

use std::fmt;

/// Who is at fault, where a code alone says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Whoever sent the message: the client's request, or the origin's response.
    Sender,
    /// The client.
    Client,
    /// The origin.
    Origin,
    /// The configuration asks for it.
    Configuration,
    /// This process.
    Ourselves,
}

/// Makes the codes of a table, group by group, as docs/reasons.md has them.
macro_rules! reasons {
    ($($group:ident, $party:ident {
        $($name:ident, $code:literal, $client:literal, $about:literal;)+
    })+) => {
        /// Why a request was refused or failed.
        #[allow(clippy::doc_markdown)] // The sentences are those of docs/reasons.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReasonCode {
            $($(#[doc = $about] $name,)+)+
        }

        /// Codes that belong together: a table of docs/reasons.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ReasonGroup {
            $($group,)+
        }

        impl ReasonCode {
            /// The code itself: lower case, underscores.
            pub const fn code(self) -> &'static str {
                match self { $($(Self::$name => $code,)+)+ }
            }

            /// What a client is told, as docs/reasons.md writes it: a status, or `*cut*`; empty where the group says it.
            pub const fn client(self) -> &'static str {
                match self { $($(Self::$name => $client,)+)+ }
            }

            /// When it is given.
            pub const fn about(self) -> &'static str {
                match self { $($(Self::$name => $about,)+)+ }
            }

            /// Who is at fault.
            pub const fn party(self) -> Party {
                match self { $($(Self::$name)|+ => Party::$party,)+ }
            }
        }

        impl ReasonGroup {
            /// All of them, in order.
            pub const ALL: &'static [ReasonGroup] = &[$(ReasonGroup::$group),+];

            /// The codes of a group, in order.
            pub const fn reasons(self) -> &'static [ReasonCode] {
                match self { $(Self::$group => &[$(ReasonCode::$name),+],)+ }
            }
        }
    };
}

reasons! {
    Head, Sender {
        UriTooLong, "uri_too_long", "414", "The request target is longer than `HeadLimits::uri_bytes`.";
        HeaderBytes, "header_bytes", "431", "The head is longer than `HeadLimits::header_bytes`.";
        HeaderCount, "header_count", "431", "More fields than `HeadLimits::header_count`, or more than the 128 of HTTP/2 with those that we add. As a response's: 502.";
        LeadingEmptyLines, "leading_empty_lines", "400", "More empty lines before the request line than `LEADING_EMPTY_LINE_COUNT_MAX`.";
        RequestLine, "request_line", "400", "Not `method SP target SP version CRLF`, to the byte.";
        StatusLine, "status_line", "400", "Not `version SP 3DIGIT [SP reason] CRLF`, or a status below 100.";
        MethodInvalid, "method_invalid", "400", "Not an upper-case token. Methods are case-sensitive (RFC 9110 section 9.1), but some origins fold them.";
        MethodTooLong, "method_too_long", "501", "Longer than `METHOD_BYTES_MAX`.";
        VersionUnsupported, "version_unsupported", "505", "A version other than HTTP/1.x. HTTP/1.2 to 1.9 are served as HTTP/1.1; what is no version at all is `request_line`.";
        BareLf, "bare_lf", "400", "LF without CR before it. RFC 9112 section 2.2 lets a reader accept it; some take it for data.";
        BareCr, "bare_cr", "400", "CR without LF after it, RFC 9112 section 2.2.";
        ControlCharacter, "control_character", "400", "NUL, DEL or another control character in a start line, a name or a value, RFC 9110 section 5.5.";
        ObsFold, "obs_fold", "400", "A line that starts with white space, RFC 9112 section 5.2.";
        SpaceBeforeColon, "space_before_colon", "400", "White space between name and colon, RFC 9112 section 5.1.";
        FieldName, "field_name", "400", "A field name that is no token, or no colon at all.";
        FramingImpostor, "framing_impostor", "400", "`Content_Length` and the like: some servers fold '_' to '-'.";
        TargetForm, "target_form", "400", "Not one of the four forms, or not the one that the method asks for, RFC 9112 section 3.2.";
        TargetControl, "target_control", "400", "A control character in the target.";
        TargetNonAscii, "target_non_ascii", "400", "A byte beyond ASCII in the target: it must be percent-encoded.";
        TargetFragment, "target_fragment", "400", "A `#` in the target.";
        TargetScheme, "target_scheme", "400", "Absolute-form with a scheme other than http and https.";
        TargetAuthority, "target_authority", "400", "Absolute-form or authority-form with a bad authority.";
        HostMissing, "host_missing", "400", "HTTP/1.1 without Host, RFC 9112 section 3.2.";
        HostRepeated, "host_repeated", "400", "Several Host fields.";
        HostInvalid, "host_invalid", "400", "A Host that is no `host[:port]`.";
        HostMismatch, "host_mismatch", "400", "The target's authority and Host name different hosts. RFC 9112 section 3.2.2 has the target win, and an origin behind us that reads only Host then serves another site than the one we authorised.";
        ClAndTe, "cl_and_te", "400", "Content-Length and Transfer-Encoding together, RFC 9112 section 6.1.";
        ClRepeated, "cl_repeated", "400", "Content-Length twice, in two fields or in a list, even if equal: no honest client sends it.";
        ClInvalid, "cl_invalid", "400", "Content-Length that isn't digits only.";
        ClOverflow, "cl_overflow", "400", "Content-Length beyond 64 bits.";
        TeHttp10, "te_http10", "400", "Transfer-Encoding in HTTP/1.0, RFC 9112 section 6.1.";
        TeMalformed, "te_malformed", "400", "Transfer-Encoding that isn't a list of codings, or has empty members.";
        TeUnsupported, "te_unsupported", "501", "A transfer coding other than chunked, RFC 9112 section 6.1.";
        TeChunkedNotLast, "te_chunked_not_last", "400", "chunked is there, but isn't last, RFC 9112 section 6.3 rule 4.";
        TeRepeated, "te_repeated", "400", "chunked twice, or two Transfer-Encoding fields.";
        MethodWithBody, "method_with_body", "400", "CONNECT or TRACE with a body: RFC 9110 sections 9.3.6 and 9.3.8 give it no meaning.";
        ConnectionMalformed, "connection_malformed", "400", "A member of Connection that is no token.";
        ConnectionProtected, "connection_protected", "400", "Connection names a field that is meant for the origin: obeying would strip it on its way.";
        ConnectionTooLong, "connection_too_long", "400", "More members than `CONNECTION_OPTION_COUNT_MAX`.";
        ExpectUnknown, "expect_unknown", "417", "An expectation other than 100-continue, RFC 9110 section 10.1.1.";
    }

    Path, Client {
        PathNotAbsolute, "path_not_absolute", "400", "The path does not start with `/`.";
        PathCharacter, "path_character", "400", "A control character, a space, or a byte beyond ASCII.";
        PathBackslash, "path_backslash", "400", r"A `\`: some servers take it for `/`.";
        PathEscape, "path_escape", "400", "A `%` without two hexadecimal digits.";
        PathNul, "path_nul", "400", "`%00`.";
    }

    Chunked, Sender {
        ChunkSize, "chunk_size", "", "No digits, a prefix, a sign, white space, anything but CRLF or `;` after the digits.";
        ChunkSizeOverflow, "chunk_size_overflow", "", "More than 16 digits.";
        ChunkExtension, "chunk_extension", "", "Not by the grammar of RFC 9112 section 7.1.1.";
        ChunkLineBytes, "chunk_line_bytes", "", "A size line beyond 4 KiB.";
        ChunkExcess, "chunk_excess", "", "Too much framing for too little data.";
        ChunkDataEnd, "chunk_data_end", "", "No CRLF after the data.";
        TrailerLine, "trailer_line", "", "A bare CR or LF, a NUL, or a line without a field name in the trailer section.";
        TrailerBytes, "trailer_bytes", "", "A trailer section beyond 8 KiB.";
        TrailerField, "trailer_field", "", "Not field lines, or more than 128.";
    }

    Http2, Sender {
        H2ConnectionField, "h2_connection_field", "400", "Connection, Proxy-Connection, Keep-Alive, Transfer-Encoding or Upgrade, which HTTP/2 forbids (RFC 9113 section 8.2.2).";
        H2Te, "h2_te", "400", "TE that is not `trailers` (RFC 9113 section 8.2.2).";
        H2ValueSpace, "h2_value_space", "400", "A field value that starts or ends with white space (RFC 9113 section 8.2.1).";
        H2LineBreak, "h2_line_break", "400", "A line break in a name or value.";
        H2PathMissing, "h2_path_missing", "400", "No `:path`.";
        H2LengthMismatch, "h2_length_mismatch", "400", "A Content-Length that is not 0, and the stream ended with the head.";
        H2ProtocolMisplaced, "h2_protocol_misplaced", "400", "`:protocol` with another method than CONNECT.";
        H2ProtocolUnknown, "h2_protocol_unknown", "501", "An extended CONNECT for something else than `websocket`.";
        H2SwitchingProtocols, "h2_switching_protocols", "502", "The status 101, which HTTP/2 does not have.";
        H2InterimEnds, "h2_interim_ends", "502", "The stream ended with a 1xx response.";
        H2TrailersTooLong, "h2_trailers_too_long", "*cut*", "Trailers of more than 8 KiB or 128 fields.";
        H2Target, "h2_target", "400", "The request's target or host holds bytes that can't be sent by HTTP/2.";
        H2Field, "h2_field", "400", "A field that can't be sent by HTTP/2.";
        H2WebsocketKey, "h2_websocket_key", "400", "Sec-WebSocket-Key is not 16 bytes in base64.";
        H2SwitchUnasked, "h2_switch_unasked", "502", "101 to a request that was not for a WebSocket.";
        H2WebsocketAccept, "h2_websocket_accept", "502", "101 whose Sec-WebSocket-Accept does not fit the key.";
        H2Cut, "h2_cut", "*cut*", "The message ended before its body did.";
        H2ResetEarly, "h2_reset_early", "-", "A request that its client cancelled, or had us reset by breaking the rules, before it was looked at. No origin heard of it.";
        H2AfterEnd, "h2_after_end", "*cut*", "Bytes after the message's end.";
    }

    Http2Connection, Client {
        H2Preface, "h2_preface", "", "What followed the first line is no preface of HTTP/2, or it did not come in `timeouts.request_head`.";
        H2ResetFlood, "h2_reset_flood", "", "More cancelled requests than a client may have; see docs/configuration.md for the three bounds. `ENHANCE_YOUR_CALM`.";
        H2ControlFlood, "h2_control_flood", "", "More PING, SETTINGS, PRIORITY or empty DATA frames than a client may send. `ENHANCE_YOUR_CALM`.";
        H2WindowFlood, "h2_window_flood", "", "More WINDOW_UPDATE frames than a client may send. `ENHANCE_YOUR_CALM`.";
        H2Backlog, "h2_backlog", "", "A stream, or a connection, that held most of what HTTP/2 and TLS connections may hold because somebody does not read: half of `limits.memory_per_worker`, of which one client's address has half. `ENHANCE_YOUR_CALM`.";
        H2EnhanceYourCalm, "h2_enhance_your_calm", "", "Another bound: heads in too many CONTINUATION frames, requests cancelled before they were looked at, many small DATA frames.";
        H2FlowControl, "h2_flow_control", "", "More DATA than the windows allow (RFC 9113 section 5.2).";
        H2Compression, "h2_compression", "", "A head that is no HPACK (RFC 7541).";
        H2FrameSize, "h2_frame_size", "", "A frame of a size that its type does not have, or beyond 16 KiB.";
        H2Protocol, "h2_protocol", "", "Any other breach of RFC 9113 that concerns the connection.";
    }

    GrpcWeb, Client {
        GrpcWebBase64, "grpc_web_base64", "400", "The text form is not base64: another character, padding out of place.";
        GrpcWebTruncated, "grpc_web_truncated", "400", "The text form ends within a group of four characters.";
    }

    ProxyHeader, Client {
        ProxySignature, "proxy_signature", "", "The connection starts with neither version's signature.";
        ProxyLine, "proxy_line", "", "A line that is none of version 1: words, spaces, line end.";
        ProxyLineTooLong, "proxy_line_too_long", "", "A line of version 1 beyond 107 bytes.";
        ProxyAddress, "proxy_address", "", "An address of version 1 that is not one of its family in canonical form.";
        ProxyPort, "proxy_port", "", "A port of version 1 beyond 65,535 or with leading zeros.";
        ProxyVersion, "proxy_version", "", "The signature of version 2 with another version.";
        ProxyCommand, "proxy_command", "", "A command other than LOCAL and PROXY.";
        ProxyFamily, "proxy_family", "", "An address family or transport that is not defined.";
        ProxyLength, "proxy_length", "", "A header of version 2 that is too short for its addresses, or beyond 4 KiB.";
        ProxyTlv, "proxy_tlv", "", "A TLV that runs over its end, or whose value can't be one of its type.";
        ProxyTlvRepeated, "proxy_tlv_repeated", "", "A TLV that says twice what can be said once.";
        ProxyChecksum, "proxy_checksum", "", "The CRC32C is wrong.";
        ProxyHeaderMissing, "proxy_header_missing", "", "The connection ended before the header did.";
        ProxyHeaderTimeout, "proxy_header_timeout", "", "The header did not come in `timeouts.tls_handshake`.";
    }

    Configuration, Configuration {
        NoRoute, "no_route", "404", "No route matches.";
        NoHost, "no_host", "400", "A redirect needs the request's host, and there is none (HTTP/1.0).";
        TraceRefused, "trace_refused", "405", "TRACE would show a client what proxies add to its request.";
        ConnectRefused, "connect_refused", "405", "CONNECT on a route without `connect: true`.";
        BodyTooLarge, "body_too_large", "413", "Over the route's `limits.body_bytes`; of a chunked body, as soon as it is.";
        RewriteMadeNoPath, "rewrite_made_no_path", "400", "The outcome of `rewrite.path_regex` is no path.";
        NoArm, "no_arm", "503", "No arm of the split has a share. The configuration refuses what would lead there.";
        FaultInjected, "fault_injected", "as configured", "The route's `fault` asks for it.";
        NoEndpoint, "no_endpoint", "503", "None of the upstream's names has an address.";
        NoHealthyEndpoint, "no_healthy_endpoint", "503", "All of the upstream's endpoints are unhealthy or left out, and `panic_percent` is 0.";
        UpstreamRequestsFull, "upstream_requests_full", "503", "`requests_max` of the upstream are in flight in this worker.";
        UpstreamConcurrencyLimit, "upstream_concurrency_limit", "503", "As many requests are in flight as `adaptive_concurrency` allows now.";
        BreakerRejecting, "breaker_rejecting", "503", "The upstream's `breaker` lets nothing through; `Retry-After` says for how long.";
        RateLimited, "rate_limited", "429", "A rate limit of the route has no token for the request's key; `Retry-After` says when it has.";
        InFlightLimited, "in_flight_limited", "429", "As many requests of the key are in flight as a limit of the route allows.";
        OverloadRequests, "overload_requests", "503", "The worker is too busy for the route's `priority`: `shedding.requests_max`.";
        OverloadMemory, "overload_memory", "503", "The worker's buffers are too full for the route's `priority`: `limits.memory_per_worker`.";
        HopFieldIgnored, "hop_field_ignored", "-", "Only counted: a client's `ringway-timeout-ms` or `grpc-timeout` could not be read, and was ignored.";
        UpstreamBusy, "upstream_busy", "503", "All endpoints were at `connections_max` for the whole connect time-out.";
        OutOfDescriptors, "out_of_descriptors", "503", "This process or machine has no file descriptor left for a connection to an upstream. Nobody else is to blame: endpoints, breakers and canaries learn nothing of it.";
        OutOfSocketMemory, "out_of_socket_memory", "503", "The kernel has no memory for another socket. As above.";
        OutOfLocalPorts, "out_of_local_ports", "503", "No local port is left to connect from. As above.";
        UpstreamPendingFull, "upstream_pending_full", "503", "`pending_max` requests wait for a connection already.";
        RequestTimeout, "request_timeout", "504", "`timeouts.request` is over.";
    }

    Mirror, Configuration {
        MirrorBodyTooLarge, "mirror_body_too_large", "", "The request's body is larger than the mirror's `body_bytes`.";
        MirrorNoMemory, "mirror_no_memory", "", "Bodies that are kept for retries and mirrors take all that this worker has for them: a quarter of `limits.memory_per_worker`.";
        MirrorOfACopy, "mirror_of_a_copy", "", "The request says that it is a copy itself (`Ringway-Mirror`), so that mirrors can't go round in circles.";
        MirrorBusy, "mirror_busy", "", "`in_flight_max` copies are under way in this worker.";
        MirrorUnavailable, "mirror_unavailable", "", "The mirror has no endpoint to choose, or its breaker or limits let nothing through.";
        MirrorTimeout, "mirror_timeout", "", "The copy or its answer took longer than `timeout`.";
        MirrorFailed, "mirror_failed", "", "No connection, or it broke, or what came was no HTTP.";
    }

    Client, Client {
        RequestHeadTimeout, "request_head_timeout", "408", "The head did not come within `timeouts.request_head`. Without a byte of it the connection is closed silently.";
        RequestBodyTimeout, "request_body_timeout", "408", "No byte of the body for `timeouts.body_idle`.";
        ClientGoneInHead, "client_gone_in_head", "-", "Closed in the middle of a head.";
        ClientGoneInBody, "client_gone_in_body", "499", "Closed in the middle of a request's body.";
        ClientGone, "client_gone", "499 or *cut*", "Reset its connection or its stream while something was owed to it, or had closed its half and nothing could be sent to it for `timeouts.half_closed`.";
        ClientReadTimeout, "client_read_timeout", "*cut*", "Took no byte of the response for `timeouts.body_idle`.";
    }

    Tls, Sender {
        PlainHttpOnTlsPort, "plain_http_on_tls_port", "", "A request in the clear where TLS is served. The client gets 400, in the clear.";
        TlsHandshakeTimeout, "tls_handshake_timeout", "", "The handshake took longer than `timeouts.tls_handshake`.";
        TlsPeerGone, "tls_peer_gone", "", "Closed or reset in the middle of the handshake.";
        TlsNoCommonProtocol, "tls_no_common_protocol", "", "ALPN: the peer asks for other protocols only.";
        TlsNoCommonVersion, "tls_no_common_version", "", "No version of TLS that both sides accept.";
        TlsNoCommonCipher, "tls_no_common_cipher", "", "No cipher suite, group or signature algorithm that both sides accept.";
        TlsNoCertificate, "tls_no_certificate", "", "None of the listener's certificates can be shown.";
        TlsCertificateMissing, "tls_certificate_missing", "", "A client certificate is required and none was shown.";
        TlsCertificateExpired, "tls_certificate_expired", "", "The peer's certificate is expired; or it says that of ours.";
        TlsCertificateOtherName, "tls_certificate_other_name", "", "The origin's certificate is for other names.";
        TlsCertificateUnknownCa, "tls_certificate_unknown_ca", "", "Nobody that is trusted vouches for the peer's certificate; or it says that of ours.";
        TlsCertificateRefused, "tls_certificate_refused", "", "The peer's certificate is refused for another cause: revoked, not yet valid, not for this purpose; or it refuses ours.";
        TlsRefusedByPeer, "tls_refused_by_peer", "", "The peer sent another alert.";
        TlsBacklog, "tls_backlog", "", "Part of a handshake message had come, and it was among what held most of what HTTP/2 and TLS connections may hold (see `h2_backlog`).";
        TlsMalformed, "tls_malformed", "", "What came is not TLS, or breaks its rules.";
    }

    Origin, Origin {
        UpstreamConnectFailed, "upstream_connect_failed", "502", "Refused, unreachable; after other endpoints were tried.";
        UpstreamTlsFailed, "upstream_tls_failed", "502", "The TLS handshake failed; after other endpoints were tried.";
        UpstreamConnectTimeout, "upstream_connect_timeout", "504", "`timeouts.connect` is over.";
        UpstreamWriteTimeout, "upstream_write_timeout", "504", "Took no byte of the request for `timeouts.body_idle`.";
        UpstreamResponseTimeout, "upstream_response_timeout", "504", "No response head within `timeouts.response_head`.";
        AttemptTimeout, "attempt_timeout", "504", "An attempt took longer than `retry.per_try_timeout`, and no other followed.";
        UpstreamContinueTimeout, "upstream_continue_timeout", "504", "Neither 100 nor a final status, and the client waits for one before it sends its body.";
        UpstreamStale, "upstream_stale", "502", "A kept connection was closed just as it was used, and the request may not be sent again.";
        UpstreamClosed, "upstream_closed", "502", "Closed a new connection without a response.";
        UpstreamRefused, "upstream_refused", "503", "An HTTP/2 origin said that it did not act on the request (REFUSED_STREAM, GOAWAY), and so did the others that were tried.";
        UpstreamNoHttp2, "upstream_no_http2", "502", "An origin that is to speak HTTP/2 over TLS did not agree to it.";
        UpstreamNoWebsocket, "upstream_no_websocket", "502", "A WebSocket was asked of an HTTP/2 origin that does not offer it (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441).";
        UpstreamNoStreams, "upstream_no_streams", "502", "An HTTP/2 origin allows no requests (SETTINGS_MAX_CONCURRENT_STREAMS is 0).";
        UpstreamH2Malformed, "upstream_h2_malformed", "502", "An HTTP/2 origin's response that can't be forwarded.";
        UpstreamReset, "upstream_reset", "502", "Reset the connection before the response's head was complete.";
        UpstreamHeadTruncated, "upstream_head_truncated", "502", "Closed in the middle of the response's head.";
        TooManyInterimResponses, "too_many_interim_responses", "502", "More than 16 1xx responses to one request.";
        SwitchNotOffered, "switch_not_offered", "502", "101 to a request that offered no upgrade.";
        SwitchNotNamed, "switch_not_named", "502", "101 without Upgrade or Connection.";
        SwitchOtherProtocol, "switch_other_protocol", "502", "101 to another protocol than was offered.";
        UpstreamBodyTruncated, "upstream_body_truncated", "*cut*", "Closed before the body's end.";
        UpstreamResetInBody, "upstream_reset_in_body", "*cut*", "Reset before the body's end.";
        UpstreamBodyTimeout, "upstream_body_timeout", "*cut*", "No byte of the body for `timeouts.body_idle`.";
        BodyTruncated, "body_truncated", "*cut*", "The stream ended before the body did.";
    }

    Tunnel, Sender {
        TunnelIdleTimeout, "tunnel_idle_timeout", "", "No byte either way for `timeouts.tunnel_idle`.";
        TunnelReset, "tunnel_reset", "", "One side broke.";
    }

    Process, Ourselves {
        OutOfBuffers, "out_of_buffers", "- or 503", "No buffer came free in time, for a head or for a body: `limits.memory_per_worker` is too small for the load, or the client's address or its HTTP/2 connection holds all that it may (see there).";
        Stopping, "stopping", "503", "The process was told to stop at once.";
        HeadChanged, "head_changed", "500", "A broken invariant; please report it.";
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl std::error::Error for ReasonCode {}
