/** Dead letters: seen, sent again, thrown away, by the command that a person runs. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, afterEach, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, headers } from '@nats-io/transport-node';
import type { Operation, Run, RunChild } from '../../services/contract/schemas.ts';
import { operationIdOf } from '../../services/jobs/jobs.ts';
import { requestRaw } from '../lab/rawNats.ts';
import { attempt } from '../lab/run.ts';
import { publish } from './publisher.ts';
import { idOf, openStack, type Stack, until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const c1 = 'lxstow.jobs.local.backup.default.c1';

interface Letter {
  id: number;
  subject: string;
  operation: string;
  code: string;
  reason: string;
  headers: [string, string][];
  body: string;
  encoding: string;
}

describe('dead letters', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  before(async () => {
    stack = await openStack('dead-letters', {
      config: {
        s3: { attempts: 1 },
        worker: { attempts: 1, patienceHours: 0, lxdIdleTimeoutMs: 10_000, bandwidth: '16MiB' },
      },
    });
    await stack.launch('c1');
    await stack.launch('c2', { dataMiB: 48 });
  });
  after(() => stack?.[Symbol.asyncDispose]());
  afterEach(async () => {
    for (const worker of stack.stow.workers) if (!worker.isRunning) await worker.start();
  });

  async function command(args: string[], env: NodeJS.ProcessEnv = {}) {
    const { status, stdout, stderr } = await attempt(
      process.execPath,
      [cli, '--config', stack.stow.configFile, 'dead-letters', ...args],
      { env: { ...process.env, ...env } },
    );
    return { status, stdout: stdout.toString(), stderr };
  }

  async function ok(args: string[]): Promise<string> {
    const { status, stdout, stderr } = await command(args);
    assert.equal(status, 0, stderr);
    return stdout;
  }

  const list = async () => JSON.parse(await ok(['list', '--format', 'json'])) as Letter[];

  const ended = (id: string) =>
    until(
      async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
      (operation) => operation?.status_code >= 200,
    );

  /** Publishes what becomes a dead letter; returns the letter. */
  async function buried(subject: string, body: string): Promise<Letter> {
    const id = randomUUID();
    await publish(stack.nats.url, subject, body, id);
    await ended(id);
    const letters = await until(list, (all) => all.some(({ operation }) => operation === id));
    return letters.find(({ operation }) => operation === id) as Letter;
  }

  it('there are none at first, and the command says so', async () => {
    assert.equal(await ok(['list']), 'there are no dead letters\n');
    assert.equal(await ok(['discard', '--all']), '0 dead letters discarded\n');
  });

  it('keep subject, headers, body and reason, and are shown with them', async () => {
    const nats = await connect({ servers: stack.nats.url });
    const sent = headers();
    sent.append('Who', 'a program');
    sent.append('Who', 'twice');
    sent.set('Nats-Msg-Id', 'no uuid');
    const { seq } = await jetstream(nats).publish(c1, '{"compression":"xz\u001b[31m"}', { headers: sent });
    await nats.close();
    const operation = operationIdOf({ messageId: 'no uuid', sequence: seq });
    await ended(operation);

    const [letter, ...others] = await until(list, (all) => all.length > 0);
    assert.ok(letter);
    assert.deepEqual(others, []);
    assert.deepEqual(
      { ...letter, id: 0, time: '', reason: '' },
      {
        id: 0,
        time: '',
        subject: c1,
        operation,
        code: 'bad-message',
        reason: '',
        headers: [
          ['Who', 'a program'],
          ['Who', 'twice'],
          ['Nats-Msg-Id', 'no uuid'],
        ],
        body: '{"compression":"xz\u001b[31m"}',
        encoding: 'utf-8',
      },
    );
    assert.match(letter.reason, /not JSON/);
    assert.deepEqual(JSON.parse(await ok(['show', String(letter.id), '--format', 'json'])), letter);
    const shown = await ok(['show', String(letter.id)]);
    assert.match(shown, /^subject: +lxstow\.jobs\.local\.backup\.default\.c1$/m);
    assert.match(shown, /^header: +Who: twice$/m);
    assert.match(shown, /^body: +\{"compression":"xz\\u\{1b\}\[31m"\}$/m);
    const table = await ok(['list']);
    assert.match(table, /^ID +TIME \(UTC\) +SUBJECT +CODE +REASON$/m);
    assert.match(
      table,
      new RegExp(`^${letter.id} +\\S+ \\S+ +${c1.replaceAll('.', '\\.')} +bad-message +.*not JSON`, 'm'),
    );
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that none reaches the terminal is the point
    assert.doesNotMatch(shown + table, /\u001b/);
  });

  it('are made of messages whose headers cannot be read, and no run waits for them', async () => {
    const before = await list();
    const nats = await connect({ servers: stack.nats.url });
    const { consumers } = await jetstreamManager(nats);
    await consumers.pause('LXSTOW_JOBS', 'local_transfer', new Date(Date.now() + 3_600_000));
    const ids: string[] = [];
    // NATS acts on the id; the client cannot read it.
    for (const line of ['Foo Bar: x', 'Naïve: x', 'Who: a\nb']) {
      const said = await requestRaw(stack.nats.url, c1, [`Nats-Msg-Id: ${randomUUID()}`, line], '{}');
      ids.push(operationIdOf({ messageId: undefined, sequence: JSON.parse(said ?? '').seq }));
    }
    const body = { selector: { instances: ['c1'] } };
    const run = await stack.stow.request('POST', '/1.0/runs', { body });
    const children = async () =>
      (await stack.stow.request('GET', `/1.0/runs/${idOf(run)}/children`)).body.metadata.children as RunChild[];
    const [child] = await until(children, ([one]) => one?.state === 'skipped');
    assert.match(String(child?.reason), new RegExp(`operation ${ids.at(-1)} is on the queue`));
    await consumers.resume('LXSTOW_JOBS', 'local_transfer');
    await nats.close();

    const letters = await until(list, ({ length }) => length === before.length + ids.length);
    const made = letters.slice(before.length);
    assert.deepEqual(made.map(({ operation }) => operation).sort(), ids.sort());
    for (const { code, reason, headers, subject, body } of made) {
      assert.deepEqual({ code, headers, subject, body }, { code: 'bad-message', headers: [], subject: c1, body: '{}' });
      assert.match(reason, /the message's headers cannot be read/);
    }
    for (const id of ids) assert.equal((await ended(id)).status, 'Failure');
    const [first, ...others] = made.map(({ id }) => String(id));
    const [, again = ''] = /operation (\S+)/.exec(await ok(['retry', String(first)])) ?? [];
    assert.equal((await ended(again)).status, 'Success');
    for (const id of others) await ok(['discard', id]);
    const next = await stack.stow.request('POST', '/1.0/runs', { body });
    const over = await until(
      async () => (await stack.stow.request('GET', `/1.0/runs/${idOf(next)}`)).body.metadata as Run,
      ({ status }) => status !== 'Running',
    );
    assert.equal(over.status, 'Success');
  });

  it('one whose cause is mended is a new operation when it is sent again, and no letter any more', async () => {
    const letter = await buried('lxstow.jobs.local.backup.default.later', '{"bakcup":"x"}');
    assert.match(letter.reason, /bakcup/);
    const printed = await ok(['retry', String(letter.id)]);
    const operation = /as operation (\S+)\n$/.exec(printed)?.[1] ?? '';
    assert.notEqual(operation, letter.operation);
    assert.match((await ended(operation)).err, /bakcup/);
    const letters = await until(list, (all) => all.some((other) => other.operation === operation));
    assert.ok(!letters.some(({ id }) => id === letter.id), 'the letter is still there');
    assert.equal((await command(['retry', String(letter.id)])).status, 66);
  });

  it('a job out of attempts is one, and succeeds when it is sent again', async () => {
    const { simulator } = stack;
    const real = stack.lab.lxd;
    const id = randomUUID();
    if (real) await real.kill('SIGKILL');
    else await simulator?.stop();
    await publish(stack.nats.url, c1, '{"backup":"in-the-end","compression":"none"}', id);
    assert.equal((await ended(id)).status, 'Failure');
    const letter = (await until(list, (all) => all.some(({ operation }) => operation === id))).find(
      ({ operation }) => operation === id,
    );
    assert.equal(letter?.code, 'lxd-unavailable');
    if (real) await real.start();
    else await simulator?.start();

    // It can be asked for at once, without a worker having taken it.
    const [worker] = stack.stow.workers;
    await worker?.stop();
    const printed = await ok(['retry', String(letter?.id)]);
    const operation = /as operation (\S+)\n$/.exec(printed)?.[1] ?? '';
    const pending = await stack.stow.request('GET', `/1.0/operations/${operation}`);
    assert.deepEqual([pending.status, pending.body.metadata?.status], [200, 'Pending']);
    await worker?.start();
    const { status, err } = await ended(operation);
    assert.equal(status, 'Success', err);
    assert.equal((await stack.stow.request('GET', '/1.0/instances/c1/backups/in-the-end')).status, 200);
  });

  it('jobs that S3 was away for, at work or queued, for longer than they may wait, are; and all succeed when they are sent again', async () => {
    const uploading = await stack.stow.request('POST', '/1.0/instances/c2/backups?compression=none');
    await until(
      async () => (await stack.stow.request('GET', uploading.body.operation)).body.metadata as Operation,
      ({ metadata }) => metadata.stage === 'uploading',
    );
    await stack.s3.kill();
    assert.equal((await ended(idOf(uploading))).status, 'Failure');
    // Its copy in LXD has gone with it, though S3 is away.
    assert.deepEqual(await stack.lxd.get('/1.0/instances/c2/backups', {}, AbortSignal.timeout(60_000)), []);
    const ids = [randomUUID(), randomUUID()];
    for (const [index, id] of ids.entries())
      await publish(stack.nats.url, c1, JSON.stringify({ backup: `after-s3-${index}`, compression: 'none' }), id);
    for (const id of ids) assert.equal((await ended(id)).status, 'Failure');
    const ofThese = (all: Letter[]) => all.filter(({ operation }) => ids.some((id) => id === operation));
    const letters = await until(list, (all) => ofThese(all).length === ids.length);
    const codes = ofThese(letters).map(({ code }) => code);
    const told = await stack.stow.request('GET', '/1.0/operations');
    assert.equal(told.headers.warning, `199 lxstow "${letters.length} dead letters; lxstow dead-letters list"`);
    assert.deepEqual(codes, ['s3-unavailable', 's3-unavailable']);
    await stack.s3.start();
    const printed = await ok(['retry', '--all', '--code', 's3-unavailable']);
    for (const [, operation = ''] of printed.matchAll(/as operation (\S+)$/gm)) {
      const { status, err } = await ended(operation);
      assert.equal(status, 'Success', err);
    }
    assert.match(printed, /^3 dead letters queued again$/m);
  });

  it('all that ended with one code are sent again, and no others', async () => {
    const letter = await buried('lxstow.jobs.local.backup.default.c1', '{"bakcup":"y"}');
    const before = await list();
    const none = await ok(['retry', '--all', '--code', 's3-unavailable']);
    assert.equal(none, '0 dead letters queued again\n');
    assert.deepEqual(await list(), before);
    const printed = await ok(['retry', '--all', '--code', letter.code]);
    const again = printed.match(/^dead letter \d+ is queued again as operation \S+$/gm) ?? [];
    assert.equal(again.length, before.filter(({ code }) => code === letter.code).length);
    assert.ok(printed.endsWith(`\n${again.length} dead letters queued again\n`));
    // Their cause is not mended: each ends as a letter again.
    await until(list, (all) => all.length === before.length && !all.some(({ id }) => id === letter.id));
    for (const wrong of [['retry'], ['retry', '1', '--all'], ['retry', '1', '--code', 'internal']])
      assert.equal((await command(wrong)).status, 64);
  });

  it('stays when the queue does not take it', async () => {
    const letter = await buried('lxstow.jobs.local.backup.default.c1', 'no json');
    // A remote that was taken out of the configuration: no stream has its subject.
    const nats = await connect({ servers: stack.nats.url });
    await jetstream(nats).publish('lxstow.dead.gone.backup.default.c1', 'x');
    await nats.close();
    const gone = (await list()).find(({ subject }) => subject === 'lxstow.jobs.gone.backup.default.c1');
    const { status, stderr } = await command(['retry', String(gone?.id)]);
    assert.equal(status, 64);
    assert.match(stderr, /LXSTOW_JOBS does not accept lxstow\.jobs\.gone\.backup\.default\.c1/);
    assert.deepEqual(
      (await list()).filter(({ id }) => id === gone?.id || id === letter.id).map(({ id }) => id),
      [letter.id, gone?.id],
    );
  });

  it('are discarded one by one, or all of them', async () => {
    const first = await buried(c1, 'one');
    const second = await buried(c1, 'two');
    assert.equal(await ok(['discard', String(first.id)]), `dead letter ${first.id} discarded\n`);
    const left = (await list()).map(({ id }) => id);
    assert.ok(left.includes(second.id) && !left.includes(first.id));
    for (const args of [
      ['discard', String(first.id)],
      ['show', '999999'],
    ]) {
      const { status, stderr } = await command(args);
      assert.equal(status, 66);
      assert.match(stderr, /^lxstow: there is no dead letter \d+\n$/);
    }
    for (const args of [['discard'], ['discard', '--all', '1'], ['show', 'x'], ['retry', '0']])
      assert.equal((await command(args)).status, 64, args.join(' '));
    assert.deepEqual(
      (await list()).map(({ id }) => id),
      left,
    );
    assert.equal(await ok(['discard', '--all']), `${left.length} dead letters discarded\n`);
    assert.deepEqual(await list(), []);
  });
});
