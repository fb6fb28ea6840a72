# The server in a container.
#
#   docker build -t heddle .
#   docker run --rm -p 8000:8000 -v ./model.heddle:/model:ro heddle
#
# The default image serves artifacts: it has no compiler and no torch. `--target compile` makes one that compiles too:
#
#   docker build -t heddle-compile --target compile .
#   docker run --rm -v ./checkpoint:/checkpoint:ro -v .:/out heddle-compile compile /checkpoint -o /out/model.heddle
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
# A user by number: a volume that it shall write to needs this owner.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin heddle \
    && install -d -o heddle -g heddle /cache
ENV PATH=/opt/heddle/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HEDDLE_CACHE=/cache \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1

FROM python AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY compiler compiler
COPY heddle heddle
COPY ir_passes ir_passes
COPY models models
COPY runtime runtime
COPY schedules schedules
RUN python3 -m venv /opt/heddle \
    && pip install --no-cache-dir --disable-pip-version-check ".[serve,grammar]"

# What only compiling needs is most of the size. An artifact's code runs with TVM's runtime library alone.
FROM build AS trimmed
RUN rm /opt/heddle/lib/python3*/site-packages/tvm/lib/libtvm_compiler.so

FROM python AS compile
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/heddle /opt/heddle
USER heddle
WORKDIR /home/heddle
ENTRYPOINT ["heddle"]
CMD ["--help"]

FROM python AS server
COPY --from=trimmed /opt/heddle /opt/heddle
USER heddle
WORKDIR /home/heddle
EXPOSE 8000
# Loading a large model takes longer than a check may fail: the start period.
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM lets open requests finish.
STOPSIGNAL SIGTERM
ENTRYPOINT ["heddle", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/model"]
