# syntax=docker/dockerfile:1
# Two images from one file: `sidecar` (the default) and `demo`, which also holds a model server.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md ./
COPY proto proto
COPY policies policies
COPY ext_authz ext_authz
RUN /venv/bin/pip install --no-cache-dir '.[native]'

FROM build AS build-demo
RUN /venv/bin/pip install --no-cache-dir '.[demo]'

FROM python:3.11-slim-bookworm AS base
RUN groupadd --gid 10001 ext-authz \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin ext-authz \
 && install -d -o 10001 -g 10001 -m 0750 /certs /run/ext-authz /var/lib/ext-authz \
 && install -d /etc/ext-authz
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /etc/ext-authz
USER 10001:10001

FROM base AS demo
COPY --from=build-demo /venv /venv
ENTRYPOINT ["ext-authz"]
CMD ["--help"]

FROM base AS sidecar
COPY --from=build /venv /venv
STOPSIGNAL SIGTERM
ENTRYPOINT ["ext-authz"]
CMD ["serve", "-c", "/etc/ext-authz/ext-authz.yaml"]
