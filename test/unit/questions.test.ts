/** Answers to questions over NATS: what cannot be sent is no end of the process. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { Msg } from '@nats-io/transport-node';
import { answerInventory, type InventoryQuestion } from '../../services/hosts/hostInventory.ts';
import { answerLookUp } from '../../services/hosts/lookUp.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { createLogger } from '../../services/telemetry/logger.ts';

type Callback = (error: null, message: Msg) => void;

/** NATS with so small messages; `ask` resolves with what was sent, or with undefined when that throws, and when it is closed. */
function smallNats(maxPayload: number) {
  const state = { closed: false };
  let callback: Callback | undefined;
  const nats = {
    log: createLogger({ level: 'error', format: 'json' }, {}),
    onRefusedSubscription: () => ({ [Symbol.dispose]: () => undefined }),
    connection: {
      info: { max_payload: maxPayload },
      isClosed: () => state.closed,
      isDraining: () => false,
      subscribe: (_subject: string, options: { callback: Callback }) => {
        callback = options.callback;
        return { unsubscribe: () => undefined };
      },
    },
  } as unknown as Nats;
  const ask = (question: object) =>
    new Promise<Buffer | undefined>((resolve) => {
      const respond = (data: Buffer | string) => {
        const fits = !state.closed && data.length <= maxPayload;
        resolve(fits ? Buffer.from(data) : undefined);
        if (!fits) throw new Error(state.closed ? 'closed connection' : 'max_payload size exceeded');
        return true;
      };
      callback?.(null, { data: Buffer.from(JSON.stringify(question)), respond } as unknown as Msg);
    });
  return { nats, ask, state };
}

const never = new AbortController().signal;
const unpack = promisify(gunzip);

describe('an answer', () => {
  it('is as small as this NATS takes', async () => {
    const { nats, ask } = smallNats(64 * 1024);
    const noise = () => randomBytes(500).toString('base64');
    const many = Array.from({ length: 500 }, (_, i) => ({ name: `c${i}`, project: 'default', noise: noise() }));
    const inventory = async ({ kind }: InventoryQuestion) =>
      kind === 'instances' ? many : [{ noise: randomBytes(100_000).toString('base64') }];
    answerInventory(nats, 'local', inventory, never);
    const page = await ask({ kind: 'instances', full: false });
    assert.ok(page && JSON.parse((await unpack(page)).toString()).more);
    const one = await ask({ kind: 'projects' });
    assert.match(String(one && (await unpack(one))), /too-large/);
  });

  it('that cannot be sent any more is dropped, and no end of the process', async () => {
    const { nats, ask, state } = smallNats(64 * 1024);
    const failures: unknown[] = [];
    const onFailure = (reason: unknown) => void failures.push(reason);
    process.on('unhandledRejection', onFailure);
    answerInventory(nats, 'local', async () => [], never);
    state.closed = true;
    assert.equal(await ask({ kind: 'projects' }), undefined);
    answerLookUp(nats, 'local', async () => ({ project: true, instance: true }), never);
    assert.equal(await ask({ project: 'default', instance: 'c1' }), undefined);
    assert.equal(await ask({ project: '/', instance: 'c1' }), undefined);
    await new Promise((resolve) => setImmediate(resolve));
    process.off('unhandledRejection', onFailure);
    assert.deepEqual(failures, []);
  });
});
