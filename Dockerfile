# docker build -t lxstow . ; one image for every role: docker run lxstow gateway|worker|setup|config
#
# It runs as uid 1000 and needs neither capabilities nor a writable filesystem: --read-only --cap-drop ALL.

ARG NODE=24.21.0

FROM node:${NODE}-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY schemas schemas
COPY services services
COPY docs/openapi.json docs/
COPY packaging/carried.json packaging/
COPY nats.conf ./
RUN npm run build \
 && chmod 755 dist/services/cli/main.js \
 && npm prune --omit=dev --ignore-scripts

FROM node:${NODE}-slim
ENV NODE_ENV=production
# Saves memory (docs/install.md). A worker needs only 2: docker-compose.yml.
ENV MALLOC_ARENA_MAX=1 NODE_OPTIONS=--max-semi-space-size=8
# gzip at a third of the CPU (docs/adr/0029-isa-l.md).
RUN apt-get update -q && apt-get install -q -y --no-install-recommends libisal2 && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY LICENSE ./
COPY --from=build /build/package.json ./
COPY --from=build /build/node_modules node_modules
COPY --from=build /build/dist dist
# The only files written: the gateway's self-signed certificate. Give it a volume.
ENV STATE_DIRECTORY=/var/lib/lxstow
RUN install -d -o 1000 -g 1000 -m 0700 /var/lib/lxstow \
 && ln -s /app/dist/services/cli/main.js /usr/local/bin/lxstow
USER 1000:1000
EXPOSE 8443
ENTRYPOINT ["lxstow"]
CMD ["gateway"]
