# An image with the command vggsfm.
#
#   docker build -t vggsfm .
#   docker run --rm -v "$PWD:/data" vggsfm reconstruct photos/ --out sparse/
#
# For NVIDIA GPUs, with the NVIDIA Container Toolkit on the host:
#
#   docker build -t vggsfm-cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 .
#   docker run --rm --gpus all -v "$PWD:/data" vggsfm-cuda reconstruct photos/ --out sparse/
#
# BASE may be any Debian or Ubuntu image with Python 3.11 or newer. TORCH_INDEX names a package index to take torch
# from: an index with builds for the CPU makes the first image some gigabytes smaller.
ARG BASE=debian:13-slim
FROM ${BASE}

ARG TORCH=2.13.0
ARG TORCH_INDEX=
ARG EXTRAS=video,heif

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions of Debian's packages follow the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/vggsfm

ENV PATH=/opt/vggsfm/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

RUN pip install "torch==${TORCH}" ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}

COPY . /opt/source
RUN pip install "/opt/source[${EXTRAS}]" && vggsfm doctor

WORKDIR /data
ENTRYPOINT ["vggsfm"]
CMD ["--help"]
