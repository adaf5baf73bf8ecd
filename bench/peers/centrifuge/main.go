// A server on the centrifuge library, as its README and its reference say: server [REDIS_URL].
//
// Clients may subscribe and publish to every channel; each channel has presence information and join and leave events.
// With a URL of a store the broker and the presence manager are those for Redis. Runs until it is killed.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/centrifugal/centrifuge"
)

func withUser(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credentials := &centrifuge.Credentials{UserID: r.URL.Query().Get("user")}
		next.ServeHTTP(w, r.WithContext(centrifuge.SetCredentials(r.Context(), credentials)))
	})
}

func serveClient(client *centrifuge.Client) {
	client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
		options := centrifuge.SubscribeOptions{EmitPresence: true, EmitJoinLeave: true, PushJoinLeave: true}
		reply(centrifuge.SubscribeReply{Options: options}, nil)
	})
	client.OnPublish(func(_ centrifuge.PublishEvent, reply centrifuge.PublishCallback) {
		reply(centrifuge.PublishReply{}, nil)
	})
	client.OnPresence(func(_ centrifuge.PresenceEvent, reply centrifuge.PresenceCallback) {
		reply(centrifuge.PresenceReply{}, nil)
	})
}

func share(node *centrifuge.Node, url string) error {
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: url})
	if err != nil {
		return err
	}
	shards := []*centrifuge.RedisShard{shard}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: shards})
	if err != nil {
		return err
	}
	node.SetBroker(broker)
	presence, err := centrifuge.NewRedisPresenceManager(node, centrifuge.RedisPresenceManagerConfig{Shards: shards})
	if err != nil {
		return err
	}
	node.SetPresenceManager(presence)
	return nil
}

func run() error {
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		return err
	}
	if len(os.Args) > 1 {
		if err := share(node, os.Args[1]); err != nil {
			return err
		}
	}
	node.OnConnect(serveClient)
	if err := node.Run(); err != nil {
		return err
	}
	http.Handle("/connection/websocket", withUser(centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{})))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("ready client=%s\n", listener.Addr())
	return http.Serve(listener, nil)
}

func main() {
	log.Fatal(run())
}
