/** `lxstow pin` and `lxstow unpin`: a pinned backup is not deleted. */
import { backupName, Gateways, type Scope, suggesting } from '../client/names.ts';
import { type Exit, exits } from '../exit.ts';

export async function pinCommand(text: string, names: string[], pinned: boolean, options: Scope): Promise<Exit> {
  using gateways = new Gateways();
  const where = await gateways.oneInstance(text, options);
  const { gateway, instance, scope } = where;
  for (const name of names) {
    const backup = await suggesting(where, undefined, () => backupName(where, name));
    await suggesting(where, backup, () =>
      gateway.ask('PATCH', ['instances', instance, 'backups', backup], { query: scope, body: { pinned } }),
    );
    process.stdout.write(`${instance}/${backup} is ${pinned ? 'pinned' : 'not pinned any more'}\n`);
  }
  return exits.ok;
}
