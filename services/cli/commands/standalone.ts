/** `lxstow standalone`: a gateway and a worker in one process, with a nats-server of its own unless one is configured, and a store over `s3.folder`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { runGateway } from '../../gateway/main.ts';
import { oldestServer } from '../../nats/connection.ts';
import type { Log } from '../../telemetry/logger.ts';
import { runWorker } from '../../worker/main.ts';
import { openFolderStore } from '../folderStore.ts';
import { introduced, strange } from '../natsAt.ts';
import { ownNatsFiles, ownNatsName, withOwnNats } from '../ownNats.ts';
import { ownSecret } from '../ownSecret.ts';
import { setUpAll } from './setup.ts';

export interface StandaloneOptions {
  config: Config;
  reread(): Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  stop: AbortSignal;
  /** Port of its own nats-server; undefined when one is configured. */
  natsPort: number | undefined;
}

const natsStartMs = 30_000;
const natsStopMs = 10_000;
const lookEveryMs = 50;

/** Runs until `stop`, or until a part fails: then it stops the others and throws the reason. */
export async function runStandalone({
  config: given,
  reread,
  env,
  log,
  stop,
  natsPort,
}: StandaloneOptions): Promise<void> {
  const failed = new AbortController();
  await using own = natsPort === undefined ? undefined : await openNats(given, env, log, natsPort, failed);
  const withNats = own?.config ?? given;
  await using store =
    given.s3.folder === undefined ? undefined : await openFolderStore({ config: withNats, env, log, failed });
  const config = store?.config ?? withNats;
  await setUpAll(config, log);
  const again = () => ({ ...reread(), ...(own && { nats: config.nats }), ...(store && { s3: config.s3 }) });
  const options = { config, reread: again, env, log, stop: AbortSignal.any([stop, failed.signal]) };
  const stopOthers = (error: unknown) => {
    failed.abort(error);
  };
  await Promise.all([runGateway(options).catch(stopOthers), runWorker(options).catch(stopOthers)]);
  failed.signal.throwIfAborted();
}

/** Starts a server on loopback; its password is in the state directory. A server that a killed `standalone` left running is used, and left running. */
async function openNats(config: Config, env: NodeJS.ProcessEnv, log: Log, port: number, failed: AbortController) {
  const files = ownNatsFiles(config, env);
  const { dir } = files;
  const password = await ownSecret(files.password);
  const there = await introduced(port);
  if (there && there.name !== ownNatsName(password)) throw strange(port, there);
  const child = there ? undefined : await startServer(dir, port, password, failed);
  const url = `nats://127.0.0.1:${port}`;
  await writeFile(files.url, url);
  log.info(child ? 'nats-server started' : 'using the nats-server of an earlier standalone', { port, dir });
  return {
    config: withOwnNats(config, url, password),
    async [Symbol.asyncDispose]() {
      if (!child) return;
      await rm(files.url, { force: true });
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.removeAllListeners('exit');
      const exit = once(child, 'exit');
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), natsStopMs);
      await exit;
      clearTimeout(timer);
    },
  };
}

async function startServer(
  dir: string,
  port: number,
  password: string,
  failed: AbortController,
): Promise<ChildProcess> {
  const file = join(dir, 'nats.conf');
  const name = ownNatsName(password);
  const content = `server_name: ${name}
listen: "127.0.0.1:${port}"
jetstream { store_dir: ${JSON.stringify(join(dir, 'store'))}, sync_interval: always }
authorization { user: lxstow, password: "${password}" }
log_file: ${JSON.stringify(join(dir, 'nats.log'))}
logfile_size_limit: 10MB
`;
  await writeFile(file, content, { mode: 0o600 });
  // In a process group of its own, so that Ctrl-C does not reach it: it must run until the jobs are handed back.
  const child = spawn('nats-server', ['--config', file], { stdio: 'ignore', detached: true });
  const fail = (message: string, cause?: unknown) =>
    failed.abort(new LxstowError('nats-unavailable', message, { cause }));
  child.on('error', (error) =>
    fail(
      `nats.servers is not configured, and nats-server cannot be started: ${error.message}. Install nats-server ${oldestServer.join('.')} or newer on the PATH, or configure nats.servers`,
      error,
    ),
  );
  child.on('exit', (code, signal) =>
    fail(`nats-server exited with ${signal ?? `status ${code}`}: see ${join(dir, 'nats.log')}`),
  );
  for (
    const until = performance.now() + natsStartMs;
    (await introduced(port))?.name !== name;
    await delay(lookEveryMs)
  ) {
    failed.signal.throwIfAborted();
    if (performance.now() < until) continue;
    child.kill('SIGKILL');
    throw new LxstowError('nats-unavailable', `nats-server does not listen: see ${join(dir, 'nats.log')}`);
  }
  return child;
}
