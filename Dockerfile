# docker build -t lxstow . ; one image for every role: docker run lxstow gateway|worker|setup|config

FROM node:24-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY tsconfig.json tsconfig.build.json ./
COPY schemas schemas
COPY services services
RUN node node_modules/typescript/bin/tsc -p tsconfig.build.json \
 && npm prune --omit=dev --ignore-scripts

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /build/package.json ./
COPY --from=build /build/node_modules node_modules
COPY --from=build /build/dist dist
# All that is ever written, and by the gateway only: the certificate that it makes for itself.
ENV STATE_DIRECTORY=/var/lib/lxstow
RUN install -d -o node -g node -m 0700 /var/lib/lxstow
VOLUME /var/lib/lxstow
USER node
EXPOSE 8443
ENTRYPOINT ["node", "dist/services/cli/main.js"]
CMD ["gateway"]
