# Training and `igpt serve`, as a user without rights and with a read-only root file system:
#   docker build --tag igpt-keras .
#   docker build --tag igpt-keras:gpu --build-arg 'TENSORFLOW=tensorflow[and-cuda]' .
# docs/scaling.md and docs/serving.md say how to run it.
ARG PYTHON=python:3.12.11-slim-bookworm@sha256:519591d6871b7bc437060736b9f7456b8731f1499a57e22e6c285135ae657bf7

FROM ${PYTHON} AS build
# Further extras of setup.cfg, such as serve,tfds,hf
ARG EXTRAS=serve
ARG TENSORFLOW=tensorflow
WORKDIR /source
COPY setup.cfg setup.py pyproject.toml README.md LICENSE ./
COPY igpt_keras igpt_keras
COPY serving serving
COPY tuning tuning
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir ".[${EXTRAS}]" "${TENSORFLOW}>=2.21,<2.22"

FROM ${PYTHON}
COPY --from=build /venv /venv
# What libraries write to the home folder goes to the only place that can be written.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
USER 65534:65534
WORKDIR /work
ENTRYPOINT ["igpt"]
