/** Keys of an instance's configuration whose values are often secrets, so viewers and publishers may not see them. */
const secrets = /^(environment\.|cloud-init\.|user\.(user-data|vendor-data|meta-data|network-config)$)/;

export function isSecretKey(key: string): boolean {
  return secrets.test(key);
}
