import { randomUUID } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { makeCertificate } from './certificates.ts';
import { mountSmallDisk } from './disk.ts';
import { type LabFolder, openFolder } from './folder.ts';
import { findNatsServer } from './parts.ts';
import { answers, type Daemon, freePort, startDaemon } from './processes.ts';
import type { Log } from './run.ts';

interface NatsOptions {
  log: Log;
  name: string;
  /** More of nats-server's configuration, in its own syntax: authorization, tls, cluster… */
  config?: string;
  port?: number;
  /** Its store is on a disk of its own of this size, which can be full. Needs root. */
  diskMiB?: number;
  /** False: JetStream's own interval, as in a cluster, where others have what one may lose. */
  sync?: boolean;
  signal?: AbortSignal;
}

export interface LabNats extends Daemon, AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** Base URL of the monitoring pages (`/healthz`, `/jsz`, …). */
  readonly monitor: string;
  readonly dir: string;
}

/**
 * A private nats-server with JetStream, on loopback. It keeps port and store over kill() and start(). JetStream
 * syncs every write to disk unless told otherwise, as lxstow asks of a server that alone must not lose anything.
 */
export async function startNats({
  log,
  name,
  config = '',
  port,
  sync = true,
  diskMiB,
  signal,
}: NatsOptions): Promise<LabNats> {
  const command = await findNatsServer(log, signal);
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder(`${name}-nats`, log));
  const listen = port ?? (await freePort());
  const monitorPort = await freePort();
  const file = join(folder.path, 'nats.conf');
  if (diskMiB === undefined) await mkdir(join(folder.path, 'store'));
  else await mountSmallDisk(join(folder.path, 'store'), diskMiB);
  await writeFile(
    file,
    `server_name: ${name}
listen: "127.0.0.1:${listen}"
http: "127.0.0.1:${monitorPort}"
jetstream { store_dir: "${folder.path}/store"${sync ? ', sync_interval: always' : ''} }
${config}
`,
  );
  const monitor = `http://127.0.0.1:${monitorPort}`;
  const ready = answers(async (signal) => {
    const health = await fetch(`${monitor}/healthz`, { signal }); // says no until JetStream has recovered its streams
    if (!health.ok) throw new Error(await health.text());
  });
  const daemon = await startDaemon({ command, args: ['--config', file], folder, ready, signal });
  log(`NATS is ready on port ${listen}`);
  const owned = opening.move();
  return Object.assign(daemon, {
    url: `nats://127.0.0.1:${listen}`,
    port: listen,
    monitor,
    dir: folder.path,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  });
}

export const roles = ['admin', 'gateway', 'worker', 'publisher'] as const;
export type Role = (typeof roles)[number];

export interface LabNatsWithRoles extends LabNats {
  /** Path of the server's certificate, which is its own CA. */
  readonly ca: string;
  readonly passwords: Record<Role, string>;
  /** What a process of lxstow with this role has in its environment. */
  environment(role: Role): NodeJS.ProcessEnv;
  /** A program's own connection with this role. */
  connect(role: Role): Promise<NatsUser>;
  log(): Promise<string>;
}

export type NatsUser = NatsConnection & AsyncDisposable;

/** A private nats-server with the project's own nats.conf: only its paths and ports are others. */
export async function startNatsWithRoles({ log, name, signal }: NatsOptions): Promise<LabNatsWithRoles> {
  const command = await findNatsServer(log, signal);
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder(`${name}-nats`, log));
  const { cert, key } = await makeCertificate({ commonName: 'nats' });
  const ca = join(folder.path, 'server.crt');
  await writeFile(ca, cert);
  await writeFile(join(folder.path, 'server.key'), key);
  const passwords = Object.fromEntries(roles.map((role) => [role, randomUUID()])) as Record<Role, string>;
  const lines = roles.map((role) => `${role.toUpperCase()}_PASSWORD: "${passwords[role]}"\n`);
  await writeFile(join(folder.path, 'passwords.conf'), lines.join(''));
  const conf = await readFile(new URL('../../nats.conf', import.meta.url), 'utf8');
  await writeFile(join(folder.path, 'nats.conf'), conf.replaceAll(/"\/(etc|var\/lib)\/nats/g, `"${folder.path}`));
  const { daemon, url, port, monitor } = await startConfigured(folder, command, signal);
  const owned = opening.move();
  return Object.assign(daemon, {
    url,
    port,
    monitor,
    dir: folder.path,
    ca,
    passwords,
    environment: (role: Role) => ({
      LXSTOW_NATS_SERVERS: url,
      LXSTOW_NATS_CA: ca,
      LXSTOW_NATS_USER: role,
      LXSTOW_NATS_PASSWORD: passwords[role],
      LXSTOW_NATS_INBOX_PREFIX: `_INBOX_${role}`,
    }),
    connect: (role: Role) => connectAs({ url, user: role, password: passwords[role], ca: cert }),
    log: () => readFile(join(folder.path, 'daemon.log'), 'utf8'),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  });
}

/** Starts the server of the folder's nats.conf, on ports of its own. */
export async function startConfigured(folder: LabFolder, command: string, signal?: AbortSignal) {
  const port = await freePort();
  const monitorPort = await freePort();
  const monitor = `http://127.0.0.1:${monitorPort}`;
  const daemon = await startDaemon({
    command,
    args: ['-c', join(folder.path, 'nats.conf'), '-p', String(port), '-m', String(monitorPort)],
    folder,
    signal,
    ready: answers(async (signal) => {
      const health = await fetch(`${monitor}/healthz`, { signal });
      if (!health.ok) throw new Error(await health.text());
    }),
  });
  return { daemon, url: `tls://127.0.0.1:${port}`, port, monitor };
}

export async function connectAs(as: { url: string; user: string; password: string; ca: string }): Promise<NatsUser> {
  const connection = await connect({
    servers: as.url,
    user: as.user,
    pass: as.password,
    tls: { ca: as.ca },
    inboxPrefix: `_INBOX_${as.user}`,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
  });
  return Object.assign(connection, { [Symbol.asyncDispose]: () => connection.close() });
}

export interface NatsCluster extends AsyncDisposable {
  readonly nodes: readonly LabNats[];
  readonly urls: string[];
  /** The node that leads this stream now; waits while there is none. */
  leaderOf(stream: string): Promise<LabNats>;
}

/** Private nats-servers that make a cluster, each with its port and store over kill() and start(). */
export async function startNatsCluster({ log, name, size = 3 }: NatsOptions & { size?: number }): Promise<NatsCluster> {
  await using opening = new AsyncDisposableStack();
  const ports = await Promise.all(Array.from({ length: size }, () => freePort()));
  const routes = ports.map((port) => `"nats-route://127.0.0.1:${port}"`).join(', ');
  const nameOf = (index: number) => `${name}-${index + 1}`;
  // A node is healthy only when the cluster has a leader: they wait for each other.
  const starting = ports.map(async (port, index) =>
    opening.use(
      await startNats({
        log,
        name: nameOf(index),
        config: `cluster { name: "${name}", listen: "127.0.0.1:${port}", routes: [${routes}] }`,
      }),
    ),
  );
  await Promise.allSettled(starting);
  const nodes = await Promise.all(starting);
  const urls = nodes.map(({ url }) => url);
  await answers(async (signal) => {
    for (const { monitor } of nodes) {
      const page = await fetch(`${monitor}/jsz`, { signal });
      const { meta_cluster: meta } = (await page.json()) as {
        meta_cluster?: { leader?: string; cluster_size?: number };
      };
      if (!meta?.leader || meta.cluster_size !== size) throw new Error('the nodes have not found each other');
    }
  })(AbortSignal.timeout(60_000));
  const owned = opening.move();
  return {
    nodes,
    urls,
    async leaderOf(stream) {
      const connection = await connect({ servers: urls, timeout: 5000 });
      try {
        const jsm = await jetstreamManager(connection, { checkAPI: false, timeout: 1000 });
        for (;;) {
          const info = await jsm.streams.info(stream).catch(() => undefined);
          const leader = nodes.find((node, index) => nameOf(index) === info?.cluster?.leader && node.isRunning);
          if (leader) return leader;
          await new Promise((resolve) => setTimeout(resolve, 50));
        }
      } finally {
        await connection.close();
      }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
