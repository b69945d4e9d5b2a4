# The daemon's image, built from the sources alone.
#
#   docker build --build-arg DELAYD_COMMIT=$(git rev-parse HEAD) --tag delayd .
#   docker run --name delayd --volume delayd-state:/var/lib/delayd delayd
#
# It needs nothing but a Docker Engine: any builder does, BuildKit or not. Behind a proxy
# or a mirror, name base images of your own that know it (apt's sources, pip.conf,
# cargo's config.toml, certificates): --build-arg BUILDER=… --build-arg RUNTIME=….
# `make image` makes the same image, layer for layer the same paths, from an existing
# build and without Docker (scripts/images/daemon); scripts/package/layout says for both
# where everything lies.
ARG BUILDER=rust:1.95-slim-bookworm
ARG RUNTIME=debian:bookworm-slim

# --- tools and libtorch: they change with the project's set-up only
FROM ${BUILDER} AS tools
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      binutils ca-certificates chrpath g++ gcc git libc6-dev mold python3 python3-pip unzip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV CARGO_TARGET_DIR=/build LIBTORCH=/src/.libtorch
COPY scripts/setup/common.sh scripts/setup/libtorch scripts/setup/
RUN scripts/setup/libtorch

# --- the manifests of all crates, in a stage of their own: the dependencies are built again
# --- only when one of these files changes
FROM tools AS manifests
COPY . /all
RUN mkdir /manifests && cd /all \
 && cp --parents Cargo.toml Cargo.lock build.rs .cargo/config.toml crates/*/Cargo.toml crates/*/build.rs \
      scripts/package/compile scripts/package/rustc /manifests

# --- dependencies: built with empty sources of our own, so that a change of those costs
# --- no more than their own compilation
FROM tools AS dependencies
COPY --from=manifests /manifests ./
RUN mkdir -p src benches/figures examples && touch src/lib.rs \
 && for crate in crates/*; do mkdir -p $crate/src && touch $crate/src/lib.rs; done \
 && for main in src/main.rs benches/figures/main.rs examples/quality.rs crates/serve/src/main.rs crates/train/src/main.rs; do \
      echo 'fn main() {}' >$main; \
    done \
 && scripts/package/compile

# --- the programs
FROM dependencies AS build
COPY . .
# The clone's .git is not sent along, so whoever builds names the commit that runs will be recorded with.
ARG DELAYD_COMMIT=
ENV DELAYD_COMMIT=${DELAYD_COMMIT}
# Newer than the empty ones they replace, whatever the clone's clock said.
RUN find src crates benches examples build.rs -name '*.rs' -exec touch {} + \
 && scripts/package/compile \
 && for part in programs libraries configuration; do scripts/package/layout $part /out; done \
 && install -d -m 1777 /out/tmp \
 && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

# --- what runs
FROM ${RUNTIME}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="delayd" \
      org.opencontainers.image.description="Keeps a flight-delay model alive: trains, deploys, verifies, watches, retrains" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# "nonroot" of distroless images, so that volumes made for those fit.
RUN echo 'nonroot:x:65532:65532:nonroot:/var/lib/delayd:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'nonroot:x:65532:' >>/etc/group \
 && install -d -o 65532 -g 65532 -m 755 /var/lib/delayd
COPY --from=build /out/usr/lib/delayd /usr/lib/delayd
COPY --from=build /out/etc /etc
COPY --from=build /out/usr/bin /usr/bin
ENV DELAYD_STATE=/var/lib/delayd
USER 65532:65532
WORKDIR /var/lib/delayd
VOLUME /var/lib/delayd
EXPOSE 7070
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["/usr/bin/delayd", "health"]
ENTRYPOINT ["/usr/bin/delayd"]
CMD ["run"]
