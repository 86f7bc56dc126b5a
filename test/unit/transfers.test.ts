/** What one client's transfers and connections leave to others. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { describe, it } from 'node:test';
import { IdleWatch } from '../../services/concurrency/idleWatch.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import { connectionLimits } from '../../services/gateway/access/connections.ts';
import { Transfers, type TransferTools } from '../../services/gateway/transfers.ts';

describe('places for transfers', () => {
  it('are not all one client’s, and come back', () => {
    const transfers = new Transfers({ most: 3, mostPerClient: 2 } as TransferTools);
    const first = transfers.begin('one');
    {
      using _second = transfers.begin('one');
      assert.throws(() => transfers.begin('one'), { code: 'gateway-busy', message: /2 .*of this client/ });
      using _other = transfers.begin('two');
      assert.throws(() => transfers.begin('three'), { code: 'gateway-busy', message: /3 exports and uploads/ });
    }
    using _again = transfers.begin('one');
    first[Symbol.dispose]();
    using _more = transfers.begin('one');
  });
});

describe('a large upload', () => {
  it('is received alone among its like', () => {
    const transfers = new Transfers({ most: 3, mostPerClient: 2 } as TransferTools);
    {
      using _first = transfers.begin('one', true);
      assert.throws(() => transfers.begin('two', true), { code: 'gateway-busy', message: /more than 450 GiB/ });
      using _small = transfers.begin('two');
      using _other = transfers.begin('two');
    }
    using _again = transfers.begin('two', true);
  });
});

describe('a slow client', () => {
  /** Sends `bytes` after each `ms` that it is waited for; tells after how many seconds it was given up. */
  function given(bytes: number, ms: number, { ourTurn = 0 } = {}): number | undefined {
    let [now, moved] = [0, 0];
    const pace = { moved: () => moved, leastBytes: 60 * 1024, now: () => now };
    using idle = new IdleWatch(60_000, 'the client', 'client-stalled', pace);
    for (let waited = 0; waited < 600_000; waited += ms) {
      idle.watch(true);
      now += ms;
      moved += bytes;
      idle.touch();
      idle.watch(false);
      now += ourTurn;
      if (!idle.signal.aborted) continue;
      const { reason } = idle.signal;
      assert.ok(reason instanceof LxstowError);
      assert.equal(reason.status, 408);
      assert.match(reason.message, /^the client sent \d+ bytes in \d+ s$/);
      return (waited + ms) / 1000;
    }
    return undefined;
  }

  it('that sends a byte now and then is given up after a minute', () => {
    assert.equal(given(1, 1000), 60);
    assert.equal(given(1, 59_000), 118);
    assert.equal(given(1023, 1000), 60);
  });

  it('that sends enough is not, and our own time is not counted', () => {
    assert.equal(given(1024, 1000), undefined);
    assert.equal(given(64 * 1024, 59_000), undefined);
    assert.equal(given(1024, 1000, { ourTurn: 50_000 }), undefined);
  });
});

describe('a connection that says nothing, or not all', () => {
  it('is closed: the limits of our server are none that Node.js switches off', async () => {
    const limits = { ...connectionLimits, headersTimeout: connectionLimits.headersTimeout / 1000 };
    const server = http.createServer({ ...limits, connectionsCheckingInterval: 10 }, (_, response) => response.end());
    await once(server.listen(0, '127.0.0.1'), 'listening');
    try {
      for (const said of ['', 'GET /1.0 HTTP/1.1\r\nhost: x\r\n']) {
        const socket = connect((server.address() as AddressInfo).port, '127.0.0.1', () => socket.write(said));
        socket.on('error', () => undefined).resume();
        await once(socket, 'close');
      }
    } finally {
      server.close();
    }
  });
});
