# The image of moesaic: the binary, the libraries it is linked to, and nothing else. The web page is inside
# the binary; the model comes by a volume. scripts/test_image.sh runs these same steps without a container
# engine.
#
#   docker build -t moesaic:0.1.0 .
#   docker run --rm -p 8000:8000 -v "$PWD/models/demo:/models/demo:ro" moesaic:0.1.0 serve /models/demo

FROM debian:12 AS build
WORKDIR /src
COPY scripts/setup.sh scripts/packages.txt scripts/
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates >/dev/null
RUN scripts/setup.sh build
COPY CMakeLists.txt ./
COPY cmake cmake
COPY data data
COPY web web
COPY bench bench
COPY src src
RUN cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOESAIC_TESTS=OFF && \
    ninja -C build/release moesaic && \
    strip -o /moesaic build/release/src/cli/moesaic

FROM debian:12-slim
RUN apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends \
      libboost-json1.81.0 libspdlog1.10 libfmt9 libprometheus-cpp-core1.0 libhwloc15 libyaml-cpp0.7 \
      libboost-url1.81.0 libedit2 >/dev/null && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin moesaic
COPY --from=build /moesaic /usr/local/bin/moesaic
# Outside Kubernetes the default address is loopback, which nobody outside the container could reach.
ENV HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["/usr/local/bin/moesaic"]
CMD ["serve", "--help"]
