/** Imports archives into LXD, and finds imports that are running. */
import type { ClientRequest } from 'node:http';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { Address } from '../../contract/schemas.ts';
import type { LxdClient } from '../connection/client.ts';
import { type Waiting, waitForOperation } from '../connection/lxdOperation.ts';
import { instanceExists } from '../instances.ts';

/** An import in progress: write the tar into `request`, and end it only when all of it is verified. */
interface Import {
  request: ClientRequest;
  /** Destroys the request after a failure, so that LXD keeps nothing. Returns the failure; LXD's reason, if it refused before it had received everything. */
  abort(error: unknown): Promise<unknown>;
  /**
   * Waits until LXD has received everything, calls `onTaken` with the path of LXD's operation, and waits until LXD has unpacked. Throws with LXD's
   * reason; LXD then keeps nothing.
   */
  finish(waiting: Waiting, onTaken?: (operation: string) => Promise<void>): Promise<void>;
}

/**
 * Starts an import under a name that must be free. LXD discards everything if the request is destroyed before its end. Name and pool are sent in
 * LXD's headers and in Incus's: each reads its own, and an Incus that reads none takes them from the archive.
 */
export function openImport(lxd: LxdClient, address: Address, pool: string | undefined, signal: AbortSignal): Import {
  const { outgoing, answer } = lxd.open({
    method: 'POST',
    path: '/1.0/instances',
    query: { project: address.project },
    headers: {
      'content-type': 'application/octet-stream',
      ...forEachServer('name', address.instance),
      ...(pool ? forEachServer('pool', pool) : {}),
    },
    signal,
  });
  let isAnswered = false;
  // Read as soon as it comes: if LXD refuses early, it closes the connection.
  const envelope = answer.then((response) => {
    isAnswered = true;
    return lxd.envelope(response, signal);
  });
  // Handles the rejection, too: the caller may see the failure while it writes, before it awaits the answer.
  const refusal = envelope.then(
    () => undefined,
    (error: unknown) => error,
  );
  return {
    request: outgoing,
    async abort(error) {
      const failure = lxd.failure(error, signal);
      const why = isAnswered && isCode(failure, 'lxd-unavailable') ? await refusal : undefined;
      outgoing.destroy();
      return why ?? failure;
    },
    async finish(waiting, onTaken) {
      const { operation = '' } = await envelope;
      // LXD forgets an operation 5 s after its end, so wait for it at once.
      const ended = waitForOperation(lxd, operation, { ...waiting, idleTimeoutMs: Number.POSITIVE_INFINITY });
      await Promise.all([ended, onTaken?.(operation)]);
      if (await instanceExists(lxd, address, waiting.signal)) return;
      throw new LxstowError(
        'lxd-refused',
        `${lxd.title} has imported the archive, but not as ${address.instance}: look for an instance with the name that it had when it was backed up`,
      );
    },
  };
}

function forEachServer(what: 'name' | 'pool', value: string): Record<string, string> {
  return { [`x-lxd-${what}`]: value, [`x-incus-${what}`]: value };
}

/**
 * Path of a running import, begun by any client, that is or may be for this instance; undefined if there is none. LXD 6 does not say in `resources`
 * what an import works on. An import of an unknown instance is returned too: waiting for it does no harm.
 */
export async function runningImport(
  lxd: LxdClient,
  address: Address,
  signal: AbortSignal,
): Promise<string | undefined> {
  const operations = await lxd.get<Record<string, RunningOperation[]>>(
    '/1.0/operations',
    { recursion: '1', project: address.project },
    signal,
  );
  const imports = (operations.running ?? []).filter(({ description }) => description === 'Restoring backup');
  const found =
    imports.find((operation) => namesOf(operation).includes(address.instance)) ??
    imports.find((operation) => namesOf(operation).length === 0);
  return found && `/1.0/operations/${found.id}`;
}

/** Names of the instances that an operation works on, from `resources`, or in LXD 6 from `metadata.entity_url`. */
function namesOf({ resources, metadata }: RunningOperation): string[] {
  const paths = [...Object.values(resources ?? {}).flat(), metadata?.entity_url];
  const segments = paths.map((path) => (typeof path === 'string' ? path : '').split('?')[0]?.split('/') ?? []);
  return segments.flatMap(([, , kind, name]) => (kind === 'instances' || kind === 'containers' ? (name ?? []) : []));
}

interface RunningOperation {
  id: string;
  description: string;
  resources: Record<string, string[]> | null;
  metadata: Record<string, unknown> | null;
}
