/** What is there on the remotes, asked of their workers side by side. */
import type { Request, Response } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { asLxstowError, type LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { askInventory, type InventoryQuestion } from '../../hosts/hostInventory.ts';
import type { LxdObject } from '../../lxd/inventory.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { query } from '../http/requests.ts';

/** The remotes that a request means: `?target=`, or all, the default one first. */
export function remotesOf(request: Request, { remotes, gateway }: Config): string[] {
  const known = Object.keys(remotes);
  const target = query(request, 'target', 'names.json#/$defs/remoteName');
  if (target !== undefined) return [knownRemote(target, known)];
  return [gateway.defaultRemote, ...known.filter((remote) => remote !== gateway.defaultRemote)];
}

export interface Told {
  /** By remote, in the order in which they were named. */
  found: Map<string, LxdObject[]>;
  /** Why the others have said nothing. */
  silent: Map<string, LxstowError>;
}

/** Asks all of them, and waits `gateway.inventoryTimeoutMs` at most. Those who say nothing are named in a `Warning` header and the log. */
export async function askRemotes(
  { nats, config, log }: Pick<GatewayParts, 'nats' | 'config' | 'log'>,
  response: Response,
  remotes: string[],
  question: InventoryQuestion,
): Promise<Told> {
  const told: Told = { found: new Map(), silent: new Map() };
  const answers = await Promise.allSettled(
    remotes.map((remote) => askInventory(nats, remote, question, config.gateway.inventoryTimeoutMs)),
  );
  for (const [index, answer] of answers.entries()) {
    const remote = remotes[index] as string;
    if (answer.status === 'fulfilled') told.found.set(remote, answer.value);
    else told.silent.set(remote, asLxstowError(answer.reason));
  }
  for (const [remote, error] of told.silent) {
    log.warn('remote not heard', { remote, error });
    response.append('warning', `199 lxstow "remote ${remote} is not in this answer: ${error.code}"`);
  }
  return told;
}

/** The same, from at least one of them. Throws why the first has said nothing when all are silent. */
export async function askSome(...asked: Parameters<typeof askRemotes>): Promise<Told['found']> {
  const { found, silent } = await askRemotes(...asked);
  const [error] = silent.values();
  if (found.size === 0 && error) throw error;
  return found;
}

/** An instance's path, with what it takes to mean this one. */
export function instancePath(
  { name, project, location }: { name: string; project: string; location: string },
  defaultRemote: string,
): string {
  const search = new URLSearchParams({
    ...(project !== 'default' && { project }),
    ...(location !== defaultRemote && { target: location }),
  });
  return `/1.0/instances/${name}${search.size > 0 ? `?${search}` : ''}`;
}
