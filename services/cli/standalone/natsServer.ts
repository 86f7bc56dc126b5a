/** Standalone's own nats-server: starts it on loopback, and ends it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { oldestServer } from '../../nats/connection.ts';
import type { Log } from '../../telemetry/logger.ts';
import { endChild } from './endChild.ts';
import { isOwnNatsAt, type OwnNatsFiles, ownNatsFiles, ownNatsName, withOwnNats } from './ownNats.ts';
import { ownSecret } from './stateFiles.ts';

const startMs = 30_000;
const lookEveryMs = 50;

interface NatsServerOptions {
  config: Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  port: number;
  /** Is aborted if the server ends by itself. */
  failed: AbortController;
}

/**
 * Starts the server; the returned `config` is for it. Its password is in the state directory. A server that a killed `standalone` left running is used, and left
 * running.
 */
export async function openNatsServer(options: NatsServerOptions): Promise<AsyncDisposable & { config: Config }> {
  const { config, env, log, port, failed } = options;
  const files = ownNatsFiles(config, env);
  const { dir } = files;
  const password = await ownSecret(files.password);
  const there = await isOwnNatsAt(port, password, files);
  const child = there ? undefined : await startServer(files, port, password, failed);
  const url = `nats://127.0.0.1:${port}`;
  await writeFile(files.url, url);
  log.info(child ? 'nats-server started' : 'using the nats-server of an earlier standalone', { port, dir });
  return {
    config: withOwnNats(config, url, password),
    async [Symbol.asyncDispose]() {
      if (!child) return;
      await rm(files.url, { force: true });
      child.removeAllListeners('exit');
      await endChild(child, 'SIGTERM');
    },
  };
}

async function startServer(
  files: OwnNatsFiles,
  port: number,
  password: string,
  failed: AbortController,
): Promise<ChildProcess> {
  const { dir } = files;
  const file = join(dir, 'nats.conf');
  await writeFile(file, configurationOf(files, port, password), { mode: 0o600 });
  // In a process group of its own, so that Ctrl-C does not reach it: it must run until the jobs are handed back.
  const child = spawn('nats-server', ['--config', file], { stdio: 'ignore', detached: true });
  const fail = (message: string, cause?: unknown) =>
    failed.abort(new LxstowError('nats-unavailable', message, { cause }));
  child.on('error', (error) => {
    const advice = `Install nats-server ${oldestServer.join('.')} or newer on the PATH, or configure nats.servers`;
    fail(`nats.servers is not configured, and nats-server cannot be started: ${error.message}. ${advice}`, error);
  });
  child.on('exit', (code, signal) =>
    fail(`nats-server exited with ${signal ?? `status ${code}`}: see ${join(dir, 'nats.log')}`),
  );
  const answers = () => isOwnNatsAt(port, password, files).catch(() => false);
  for (const until = performance.now() + startMs; !(await answers()); await delay(lookEveryMs)) {
    failed.signal.throwIfAborted();
    if (performance.now() < until) continue;
    child.kill('SIGKILL');
    throw new LxstowError('nats-unavailable', `nats-server does not listen: see ${join(dir, 'nats.log')}`);
  }
  return child;
}

function configurationOf({ dir, pid }: OwnNatsFiles, port: number, password: string): string {
  return `server_name: ${ownNatsName(password)}
listen: "127.0.0.1:${port}"
jetstream { store_dir: ${JSON.stringify(join(dir, 'store'))}, sync_interval: always }
authorization { user: lxstow, password: "${password}" }
pid_file: ${JSON.stringify(pid)}
log_file: ${JSON.stringify(join(dir, 'nats.log'))}
logfile_size_limit: 10MB
`;
}
