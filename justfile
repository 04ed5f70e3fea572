# What CI runs.
check: fmt clippy test doc

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --all-targets -- -D warnings

test:
    cargo test --workspace

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Everything at once in the simulation, with so many seeds.
sim seeds="10000" first="1":
    RINGWAY_SIM_SEEDS={{seeds}} RINGWAY_SIM_FIRST={{first}} cargo test -p ringway-tests --test sim mixed::everything_at_once -- --exact

# Licences, duplicates, sources. Needs `cargo install cargo-deny`.
deny:
    cargo deny check

bench:
    cargo bench

# Ten minutes each. Needs `cargo install cargo-fuzz`.
fuzz seconds="600":
    RUSTC_BOOTSTRAP=1 cargo fuzz run head -- -max_total_time={{seconds}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run chunked -- -max_total_time={{seconds}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run connection -- -max_total_time={{seconds}} -dict=fuzz/connection.dict
    RUSTC_BOOTSTRAP=1 cargo fuzz run h2_to_h1 -- -max_total_time={{seconds}} -dict=fuzz/http2.dict
    RUSTC_BOOTSTRAP=1 cargo fuzz run h1_to_h2 -- -max_total_time={{seconds}} -dict=fuzz/http1.dict
    RUSTC_BOOTSTRAP=1 cargo fuzz run proxy_protocol -- -max_total_time={{seconds}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run grpc -- -max_total_time={{seconds}}
    RUSTC_BOOTSTRAP=1 cargo fuzz run h2_session -- -max_total_time={{seconds}} -dict=fuzz/h2_session.dict
    RUSTC_BOOTSTRAP=1 cargo fuzz run tls_records -- -max_total_time={{seconds}} -max_len=256

compare suite="h1-small":
    cargo build --release
    target/release/ringway-bench compare {{suite}}
