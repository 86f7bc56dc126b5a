/** Standalone's own servers: their files, what listens on a port, and what is left when standalone fails. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { openFolderStore } from '../../services/cli/standalone/folderStore.ts';
import { introduced } from '../../services/cli/standalone/natsAt.ts';
import {
  assertOwnNats,
  besideOwnNats,
  isOwnNatsAt,
  ownNatsFiles,
  ownNatsName,
} from '../../services/cli/standalone/ownNats.ts';
import { ownSecret, readOwn } from '../../services/cli/standalone/stateFiles.ts';
import { loadConfig } from '../../services/contract/config.ts';
import type { LocalPool, LocalServer } from '../../services/init/servers.ts';
import { tryFolder } from '../../services/init/tryStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { noFile } from '../lab/noFile.ts';
import { freePort } from '../lab/processes.ts';

const dir = mkdtempSync(join(tmpdir(), 'lxstow-state-'));
const keys = { LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'b' };

describe('a secret of standalone', () => {
  it('is made once, also by several at a time, and for its owner alone', async () => {
    const file = join(dir, 'store', 'secret');
    const [first = '', ...others] = await Promise.all([ownSecret(file), ownSecret(file), ownSecret(file)]);
    assert.match(first, /^[0-9a-f]{48}$/);
    assert.deepEqual([...others, await ownSecret(file)], [first, first, first]);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(join(dir, 'store')), ['secret']);
  });

  it('is not empty where a full disk once left an empty file', async () => {
    const file = join(dir, 'empty');
    writeFileSync(file, '');
    assert.match(await ownSecret(file), /^[0-9a-f]{48}$/);
  });
});

describe('what standalone has written', () => {
  it('is nothing where it has not run, and says so when it cannot be read', () => {
    assert.equal(readOwn(join(dir, 'none'), 'the key'), undefined);
    assert.throws(() => readOwn(dir, 'the key'), /^LxstowError: the key: cannot read .*: run this command as the user/);
  });
});

describe('what listens on a port', () => {
  it('is no NATS server when it talks without end', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      const talk = () => {
        while (socket.writable && socket.write('x'.repeat(1000)));
      };
      socket.on('drain', talk).on('error', () => undefined);
      talk();
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    assert.deepEqual(await introduced((server.address() as AddressInfo).port), { name: undefined, version: undefined });
    for (const socket of sockets) socket.destroy();
    server.close();
  });
});

describe('the NATS server of standalone', () => {
  const root = process.getuid?.() === 0;
  const skip = root ? false : 'only root can start a program of another user';

  it('is not one of another user, though it has the name that everybody can read', { skip }, async () => {
    const files = ownNatsFiles(loadConfig({ env: { ...noFile, ...keys, LXSTOW_GATEWAY_STATE_DIR: dir } }), {});
    const password = await ownSecret(files.password);
    const info = `INFO ${JSON.stringify({ server_name: ownNatsName(password), version: '2.15.3' })}\r\n`;
    const listens = async (uid: number, port: number, use: () => Promise<void>) => {
      const server = `use IO::Socket::INET; $| = 1;
        $own = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => ${port}, Listen => 5, ReuseAddr => 1) or die;
        print "listens\\n";
        while ($client = $own->accept) { print $client $ARGV[0]; close $client }`;
      const child = spawn('perl', ['-e', server, info], { uid, stdio: ['ignore', 'pipe', 'inherit'] });
      try {
        await once(child.stdout, 'data');
        await use();
      } finally {
        child.kill('SIGKILL');
      }
    };
    const [nobody, port] = [65_534, await freePort()];
    assert.equal(await isOwnNatsAt(port, password, files), false);
    await listens(nobody, port, async () => {
      const refused = isOwnNatsAt(port, password, files);
      await assert.rejects(refused, /a program of another user \(uid 65534\) listens on port/);
      const env = { ...noFile, ...keys, LXSTOW_GATEWAY_STATE_DIR: dir };
      await writeFile(files.url, `nats://127.0.0.1:${port}`);
      const config = besideOwnNats(loadConfig({ env }), env, () => false);
      await assert.rejects(assertOwnNats(config, env), /another user/);
    });
    const own = await freePort();
    await listens(0, own, async () => assert.equal(await isOwnNatsAt(own, password, files), true));
    await listens(0, own, async () => {
      await assert.rejects(isOwnNatsAt(own, 'another', files), /that is not standalone's own/);
    });
  });
});

describe('the server of a folder', () => {
  it('is not offered a folder where others have laid a link for init to write through', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'lxstow-init-'));
    const victim = join(folder, 'victim');
    writeFileSync(victim, 'precious');
    writeFileSync(join(folder, 'versitygw'), '', { mode: 0o755 });
    symlinkSync(victim, join(folder, `.lxstow-init-${process.pid}`));
    const [finding] = await tryFolder({ folder }, { pools: [] as LocalPool[] } as LocalServer, {
      env: { PATH: folder },
      confined: false,
      state: join(folder, 'state'),
    });
    assert.equal(finding?.level, 'problem');
    assert.match(finding?.finding ?? '', /EEXIST/);
    assert.equal(readFileSync(victim, 'utf8'), 'precious');
    rmSync(folder, { recursive: true });
  });

  it('does not stay when another part of standalone fails during its start', async () => {
    const bin = join(dir, 'bin');
    const [folder, state] = [join(dir, 'folder'), join(dir, 'state')];
    for (const each of [bin, folder]) mkdirSync(each);
    writeFileSync(join(bin, 'versitygw'), '#!/bin/sh\nexec sleep 60\n', { mode: 0o755 });
    process.env.PATH = `${bin}:${process.env.PATH}`;
    const variables = { LXSTOW_S3_FOLDER: folder, LXSTOW_GATEWAY_STATE_DIR: state };
    const env = { ...variables, LXSTOW_S3_ENDPOINT: `http://127.0.0.1:${await freePort()}` };
    const failed = new AbortController();
    const log = createLogger({ level: 'error', format: 'json' }, {});
    const opening = openFolderStore({ config: loadConfig({ env: { ...noFile, ...env } }), env, log, failed });
    const pids = join(state, 'store', 'pids');
    const pid = () => Number(existsSync(pids) ? readFileSync(pids, 'utf8').split(' ')[0] : 0);
    while (pid() === 0) await delay(10);
    const left = pid();
    failed.abort(new Error('nats-server exited'));
    await assert.rejects(opening, /nats-server exited/);
    assert.throws(() => process.kill(left, 0), { code: 'ESRCH' });
  });
});
