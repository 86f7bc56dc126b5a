/** Which of the jobs that wait is called, and which are forgotten. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { WaitingRoom } from '../../services/jobs/waitingRoom.ts';
import type { Nats } from '../../services/nats/connection.ts';

const lease = 'local.default.c1';
const long = 600_000;

/** A room, the replies of those that it has called, and the number of those that wait. */
function open() {
  const called: string[] = [];
  const nats = {
    connected: true,
    connection: {
      subscribe: () => ({ unsubscribe: () => undefined }),
      publish: (reply: string, word: string) => void (word === '-NAK' && called.push(reply)),
    },
    onRefusedSubscription: () => ({ [Symbol.dispose]: () => undefined }),
  } as unknown as Nats;
  const count = { waiting: 0 };
  const onChange = (_: string, by: 1 | -1) => {
    count.waiting += by;
  };
  const room = new WaitingRoom({ nats, remote: 'local', callEveryMs: long, handedBackMs: long, onChange });
  const wait = (seq: number, reply: string) =>
    room.wait({ seq, nak: () => undefined, reply } as Parameters<WaitingRoom['wait']>[0], lease, `operation ${seq}`);
  return { room, wait, called, count, [Symbol.dispose]: () => room[Symbol.dispose]() };
}

describe('a message that two slots have handed back', () => {
  it('waits once, and is forgotten when it is delivered again', () => {
    using opened = open();
    const { room, wait, called, count } = opened;
    wait(1, 'first delivery');
    wait(1, 'second delivery');
    assert.equal(count.waiting, 1);
    room.arrived(1);
    assert.equal(count.waiting, 0);
    assert.equal(room.isBehind(lease, { seq: 2, redelivered: false }), false);
    wait(2, 'another');
    room.callFirst(lease);
    assert.deepEqual(called, ['another']);
  });

  it('may wait for another lease by then', () => {
    using opened = open();
    const { room, wait, called } = opened;
    wait(1, 'first delivery');
    room.wait({ seq: 1, nak: () => undefined }, 'local.=returning.s3', 'operation 1');
    wait(2, 'another');
    room.callFirst(lease);
    assert.deepEqual(called, ['another']);
  });
});
