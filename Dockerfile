# The images of moesaic: the binary, the libraries it is linked to, and nothing else. The web page is inside
# the binary; the model comes by a volume. scripts/test_image.sh runs these same steps without a container
# engine.
#
#   docker build -t moesaic:0.1.0 .
#   docker run --rm -p 8000:8000 -v "$PWD/models/demo:/models/demo:ro" moesaic:0.1.0 serve /models/demo
#
# The same program with the CUDA backend built in; the node's driver comes with the NVIDIA container toolkit:
#
#   docker build --target cuda -t moesaic:0.1.0-cuda .
#   docker run --rm --gpus 1 -p 8000:8000 -v "$PWD/models/demo:/models/demo:ro" moesaic:0.1.0-cuda serve /models/demo

FROM debian:12 AS source
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

FROM source AS build
RUN cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOESAIC_TESTS=OFF && \
    ninja -C build/release moesaic && \
    strip -o /moesaic build/release/src/cli/moesaic

# Machine code for every card from compute capability 8.0 on, so that none has to compile at its first start.
FROM source AS build-cuda
COPY scripts/cuda_toolchain.sh scripts/
RUN scripts/setup.sh cuda
RUN cmake -S . -B build/release -G Ninja -DCMAKE_BUILD_TYPE=Release -DMOESAIC_TESTS=OFF \
      -DMOESAIC_CUDA=ON -DMOESAIC_CUDA_TARGETS=all && \
    ninja -C build/release moesaic && \
    strip -o /moesaic build/release/src/cli/moesaic

FROM debian:12-slim AS run
RUN apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends \
      libboost-json1.81.0 libspdlog1.10 libfmt9 libprometheus-cpp-core1.0 libhwloc15 libyaml-cpp0.7 \
      libboost-url1.81.0 libedit2 >/dev/null && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin moesaic
# Outside Kubernetes the default address is loopback, which nobody outside the container could reach.
ENV HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["/usr/local/bin/moesaic"]
CMD ["serve", "--help"]

# What the container toolkit is to bring in: every card that the container gets, and the driver's part for
# computing.
FROM run AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /moesaic /usr/local/bin/moesaic

# The last one is what is built unless another is asked for.
FROM run AS cpu
COPY --from=build /moesaic /usr/local/bin/moesaic
