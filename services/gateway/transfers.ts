/** Transfers of archives through the gateway: limits how many run at a time, and gives each its memory and claims. */
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import type { Threads } from '../archive/compression/threads.ts';
import { SlotMemory } from '../archive/slotMemory.ts';
import { Semaphore } from '../concurrency/semaphore.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { BackupAddress } from '../contract/schemas.ts';
import { Claim } from '../coordination/claims.ts';
import type { Leases } from '../coordination/leases.ts';
import { claimKey, removal } from '../nats/bucketKeys.ts';
import type { ObjectStore, Presigner } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { Shares } from './http/shares.ts';

export interface TransferTools {
  /** Transfers at a time. */
  most: number;
  /** The same for one client. */
  mostPerClient: number;
  /** This gateway's name, as the holder of claims. */
  name: string;
  store: ObjectStore;
  presigner: Presigner;
  threads: Threads;
  leases: Leases;
  heartbeatMs: number;
  clientIdleTimeoutMs: number;
  log: Log;
}

const oneLarge = 'another upload of more than 450 GiB is under way, and only one at a time is received: try later';

export class Transfers {
  readonly tools: TransferTools;
  /** Only one upload's index is parsed at a time. */
  readonly parsing = new Semaphore(1);
  readonly #ended = new EventEmitter();
  /** Memory of transfers that have ended, for the next ones; never more than ran at the same time. That of a large upload is not kept. */
  readonly #memories: SlotMemory[] = [];
  readonly #shares: Shares;
  readonly #large = new Shares({ ...{ most: 1, mostPerClient: 1 }, full: oneLarge, ownFull: oneLarge });

  constructor(tools: TransferTools) {
    this.tools = tools;
    const { most, mostPerClient } = tools;
    const ownFull = `${mostPerClient} exports and uploads of this client are under way (gateway.transfersPerClient)`;
    this.#shares = new Shares({
      ...{ most, mostPerClient },
      full: `${most} exports and uploads are under way (gateway.transfers): try later`,
      ownFull: `${ownFull}: try when one has ended`,
    });
  }

  /**
   * Begins a transfer of a client. Dispose of the result when it has ended, and do not use its memory after that. Throws gateway-busy if the gateway or the client
   * has as many as it may, or if it is `large` and another large one is under way.
   */
  begin(client: string, large = false): { memory: SlotMemory } & Disposable {
    using begun = new DisposableStack();
    begun.use(this.#shares.begin(client));
    if (large) begun.use(this.#large.begin(client));
    const shares = begun.move();
    const memory = (large ? undefined : this.#memories.pop()) ?? new SlotMemory();
    return {
      memory,
      [Symbol.dispose]: () => {
        if (!large) this.#memories.push(memory);
        shares.dispose();
        this.#ended.emit('ended');
      },
    };
  }

  /** Resolves when no transfer is running, or with the signal. Transfers that were cut may still clean up. */
  async idle(signal: AbortSignal): Promise<void> {
    while (this.#shares.running > 0 && !signal.aborted) {
      await once(this.#ended, 'ended', { signal }).catch((error) => {
        if (!signal.aborted) throw error;
      });
    }
  }

  /** Claims a backup, so that it is not deleted during the transfer (docs/adr/0004). Throws conflict when it is being deleted. */
  async claim(address: BackupAddress): Promise<Claim> {
    const { leases, name, log, heartbeatMs } = this.tools;
    const operation = randomUUID();
    const lease = await leases.acquire(claimKey(address, address.backup, operation), { worker: name, operation });
    const claim = new Claim(lease, heartbeatMs, log);
    try {
      if (!(await leases.holder(claimKey(address, address.backup, removal)))) return claim;
    } catch (error) {
      await claim.release();
      throw error;
    }
    await claim.release();
    throw new LxstowError('conflict', `backup ${address.instance}/${address.backup} is being deleted`);
  }

  /** The same for an export. While NATS is away, there is no claim, and none is needed, because deletions need NATS, too. */
  async claimToRead(address: BackupAddress): Promise<Claim> {
    try {
      return await this.claim(address);
    } catch (error) {
      if (!isCode(error, 'nats-unavailable')) throw error;
      const { log, heartbeatMs } = this.tools;
      log.warn('exporting without a claim', { ...address, error });
      return new Claim(undefined, heartbeatMs, log);
    }
  }
}
