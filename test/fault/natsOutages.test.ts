/** NATS that is there, and does not serve: with jobs at work and queued. Off unless LXSTOW_LAB_OUTAGE_MINUTES is set. On real parts. */
import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { JetStreamApiError, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { until } from '../integration/stack.ts';
import { findLxd } from '../lab/findLxd.ts';
import { startNats, startNatsWithRoles } from '../lab/nats.ts';
import { run } from '../lab/run.ts';
import { openFullQueue } from './fullQueue.ts';

const minutes = Number(process.env.LXSTOW_LAB_OUTAGE_MINUTES ?? 0);
const found = await findLxd(() => undefined);
const skip =
  minutes === 0
    ? 'LXSTOW_LAB_OUTAGE_MINUTES is not set'
    : found.available && !process.env.LXSTOW_LAB_LXD_SOCKET
      ? false
      : 'no LXD of our own';
const log = () => undefined;

describe('NATS, with 4 jobs at work and others queued,', { timeout: 3_600_000, skip }, () => {
  for (const restarted of [false, true])
    it(`${restarted ? 'restarted with another password' : 'reloaded without our user'}, and then as it was: all end in Success`, async (test) => {
      await using nats = await startNatsWithRoles({ name: 'login', log });
      await using queue = await openFullQueue('login', { nats, queued: 10 });
      const jobs = await queue.begin();
      const file = join(nats.dir, restarted ? 'passwords.conf' : 'nats.conf');
      const before = await readFile(file, 'utf8');
      const change = async (text: string) => {
        await writeFile(file, text);
        if (!restarted) return nats.kill('SIGHUP');
        await nats.kill();
        await nats.start();
      };
      await change(
        restarted
          ? before.replace(nats.passwords.worker, 'another')
          : before.replace(/user: "?worker"?/, 'user: "nobody"'),
      );
      await until(nats.log, (text) => text.includes('authentication error'));
      await delay(minutes * 60_000);
      await change(before);
      test.diagnostic(`14 Success, ${await queue.assertWell(jobs)} bytes sent twice`);
    });

  it('whose account has no room in JetStream for a while: all end in Success', async (test) => {
    const account = (maxFile: string) =>
      `accounts { APP { jetstream: { max_file: ${maxFile} }, users: [ { user: app, password: app } ] } }\nno_auth_user: app`;
    await using nats = await startNats({ name: 'account', log, config: account('32MB') });
    await using queue = await openFullQueue('account', { nats, queued: 10 });
    const jobs = await queue.begin();
    await fillAccount(nats.url);
    const { status, text } = await queue.stack.stow.request('POST', '/1.0/instances/small0/backups', {});
    assert.equal(status, 503);
    assert.match(text, /no room/);
    await delay(minutes * 60_000);
    const file = join(nats.dir, 'nats.conf');
    await writeFile(file, (await readFile(file, 'utf8')).replace('32MB', '256MB'));
    await nats.kill('SIGHUP');
    test.diagnostic(`14 Success, ${await queue.assertWell(jobs)} bytes sent twice`);
  });

  it('whose disk is full for a while: all end in Success', async (test) => {
    await using nats = await startNats({ name: 'full', log, diskMiB: 64 });
    await using queue = await openFullQueue('nats-full', { nats, queued: 10 });
    const jobs = await queue.begin();
    const fillers = ['1M', '1k'].map((size) => ({ size, file: join(nats.dir, `store/filler-${size}`) }));
    for (const { size, file } of fillers)
      await run('dd', ['if=/dev/zero', `of=${file}`, `bs=${size}`, 'conv=fsync']).catch(() => undefined);
    await until(
      () => readFile(join(nats.dir, 'daemon.log'), 'utf8'),
      (text) => text.includes('no space left on device'),
    );
    await delay(minutes * 60_000);
    for (const { file } of fillers) await rm(file);
    // A stream that could not be written takes nothing more until its server is started again.
    await nats.stop();
    await nats.start();
    test.diagnostic(`14 Success, ${await queue.assertWell(jobs)} bytes sent twice`);
  });
});

/** Publishes to a stream of its own until the account has no room for a message. */
async function fillAccount(url: string): Promise<void> {
  const connection = await connect({ servers: url });
  try {
    await (await jetstreamManager(connection)).streams.add({ name: 'FILLER', subjects: ['filler'] });
    for (const bytes of [500_000, 1000, 0]) {
      const fill = async () => {
        for (;;) await jetstream(connection).publish('filler', new Uint8Array(bytes));
      };
      await assert.rejects(fill, JetStreamApiError);
    }
  } finally {
    await connection.close();
  }
}
