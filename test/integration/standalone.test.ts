/** `lxstow standalone`: one command, with a nats-server of its own that it takes down again. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { connect } from '@nats-io/transport-node';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { startNats } from '../lab/nats.ts';
import { findNatsServer } from '../lab/parts.ts';
import { answers, type Daemon, freePort, startDaemon } from '../lab/processes.ts';
import { attempt } from '../lab/run.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const log = () => undefined;

describe('standalone', { timeout: 1_800_000 }, () => {
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
    const { endpoint, accessKey, secretKey } = s3;
    const config = {
      s3: { endpoint, accessKey, secretKey, bucket: 'new-one' },
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

  const args = (port = natsPort) => [cli, '--config', configFile, 'standalone', '--nats-port', String(port)];
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

  it('is found by the commands beside it, without their being told', async () => {
    const beside = (...command: string[]) => attempt(process.execPath, [cli, '--config', configFile, ...command]);
    const daemon = await start();
    const token = await beside('trust', 'token', 'anna');
    assert.equal(token.status, 0, token.stderr);
    assert.match((await beside('trust', 'list-tokens')).stdout.toString(), /anna/);
    assert.equal((await beside('dead-letters', 'list')).status, 0);
    const doctor = await beside('doctor', '--only', 'nats,s3', '--format', 'csv');
    assert.equal(doctor.status, 0, doctor.stdout.toString());
    assert.match(doctor.stdout.toString(), /bucket new-one exists/);
    assert.match((await beside('config')).stdout.toString(), new RegExp(`nats://127\\.0\\.0\\.1:${natsPort}`));
    await daemon.stop();
    assert.doesNotMatch((await beside('config')).stdout.toString(), new RegExp(`:${natsPort}`));
  });

  it('takes up again the nats-server that it was killed beside, and no other', async () => {
    const daemon = await start();
    await daemon.kill('SIGKILL');
    await (await start()).stop();
    const password = await readFile(join(folder.path, 'state', 'nats', 'password'), 'utf8');
    await (await asNats({ user: 'lxstow', pass: password })).close();

    await using nats = await startNats({ name: 'strange', log });
    await using silent = await listening((socket) => socket.unref());
    await using loud = await listening((socket) => socket.end('220 mail.example.net ESMTP\r\n'));
    // Its address is still there, and somebody else's NATS: that is not to get the password.
    const url = join(folder.path, 'state', 'nats', 'url');
    await writeFile(url, `nats://127.0.0.1:${nats.port}`);
    const beside = await attempt(
      process.execPath,
      [...args().slice(0, args().indexOf('standalone')), 'trust', 'list'],
      {
        env: process.env,
      },
    );
    assert.equal(beside.status, 78, beside.stderr);
    assert.match(beside.stderr, /that is not standalone's own listens on port/);
    const heard: string[] = [];
    await using curious = await listening((socket) => {
      socket.write(`INFO ${JSON.stringify({ server_name: 'x', version: '2.15.0', max_payload: 1000 })}\r\n`);
      socket.on('data', (data) => heard.push(String(data))).on('error', () => undefined);
    });
    await writeFile(url, `nats://127.0.0.1:${curious.port}`);
    const doctor = [...args().slice(0, args().indexOf('standalone')), 'doctor', '--only', 'nats'];
    const examined = await attempt(process.execPath, doctor);
    assert.equal(examined.status, 1, examined.stderr);
    assert.match(examined.stdout.toString(), /^problem +nats +a NATS server .* that is not standalone's own listens/m);
    assert.deepEqual(heard, []);
    await rm(url);
    for (const [port, said] of [
      [nats.port, /a NATS server \(2\.\d+\.\d+\) that is not standalone's own .*nats\.servers: \[nats:/],
      [silent.port, /a program that is not a NATS server listens on port/],
      [loud.port, /a program that is not a NATS server listens on port/],
    ] as const) {
      const refused = await attempt(process.execPath, args(port), { env: { ...process.env, PATH: path } });
      assert.equal(refused.status, 78, refused.stderr);
      assert.match(refused.stderr, said);
    }
  });

  it('says so when there is no nats-server', async () => {
    natsPort = await freePort();
    const { status, stderr } = await attempt(process.execPath, args(), { env: { ...process.env, PATH: '/nowhere' } });
    assert.equal(status, 69, stderr);
    assert.match(stderr, /nats\.servers is not configured, and nats-server cannot be started/);
  });
});

/** A server that does this with who connects. */
async function listening(meet: (socket: Socket) => void): Promise<AsyncDisposable & { port: number }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    meet(socket);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await once(server.close(), 'close');
    },
  };
}
