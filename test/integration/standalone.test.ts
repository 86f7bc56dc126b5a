/** `lxstow standalone`: one command, with a nats-server of its own that it takes down again. */
import assert from 'node:assert/strict';
import { readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { connect } from '@nats-io/transport-node';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { findNatsServer } from '../lab/parts.ts';
import { answers, type Daemon, freePort, startDaemon } from '../lab/processes.ts';
import { attempt } from '../lab/run.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const log = () => undefined;

describe('standalone', { timeout: 200_000 }, () => {
  let lab: Lab;
  let folder: LabFolder;
  let configFile: string;
  let natsPort: number;
  let ports: { gateway: number; worker: number };
  let path: string;
  before(async () => {
    lab = await openLab({ name: 'standalone', log, lxd: false, nats: false });
    folder = await openFolder('standalone', log);
    natsPort = await freePort();
    ports = { gateway: await freePort(), worker: await freePort() };
    await symlink(await findNatsServer(log), join(folder.path, 'nats-server'));
    path = `${folder.path}${delimiter}${process.env.PATH}`;
    configFile = join(folder.path, 'lxstow.json');
    const { s3 } = lab;
    assert.ok(s3);
    const { endpoint, accessKey, secretKey, bucket } = s3;
    const config = {
      s3: { endpoint, accessKey, secretKey, bucket },
      remotes: { local: { socket: '/none' } },
      gateway: { port: await freePort(), healthPort: ports.gateway, stateDir: join(folder.path, 'state') },
      worker: { healthPort: ports.worker, graceMs: 1000 },
    };
    await writeFile(configFile, JSON.stringify(config));
  });
  after(async () => {
    await folder?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  const args = () => [cli, '--config', configFile, 'standalone', '--nats-port', String(natsPort)];
  const start = (): Promise<Daemon> =>
    startDaemon({
      command: process.execPath,
      args: args(),
      folder,
      env: { PATH: path },
      ready: answers(async (signal) => {
        for (const port of [ports.gateway, ports.worker]) {
          const health = await fetch(`http://127.0.0.1:${port}/healthz`, { signal });
          if (!health.ok) throw new Error(await health.text());
        }
      }),
    });
  const asNats = (options: object) => connect({ servers: `127.0.0.1:${natsPort}`, reconnect: false, ...options });

  it('starts all, keeps NATS to itself, and leaves nothing running', async () => {
    const daemon = await start();
    const file = join(folder.path, 'state', 'nats', 'password');
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    await assert.rejects(asNats({}), /authorization/i);
    const nats = await asNats({ user: 'lxstow', pass: await readFile(file, 'utf8') });
    await nats.close();
    await daemon.stop();
    await assert.rejects(asNats({}), /ECONNREFUSED|refused/);
    // Once more, on what the first one has made.
    await (await start()).stop();
  });

  it('says so when there is no nats-server', async () => {
    const { status, stderr } = await attempt(process.execPath, args(), { env: { ...process.env, PATH: '/nowhere' } });
    assert.equal(status, 69, stderr);
    assert.match(stderr, /nats\.servers is not configured, and nats-server cannot be started/);
  });
});
